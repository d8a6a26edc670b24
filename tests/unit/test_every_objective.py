"""Every objective on every process that offers what it needs: one small step down its gradient lowers its loss.

The cells of docs/objectives.md are ticked by the marker `covers` (objective, process) of tests such as this one.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from docs import objectives_table
from mmalign import options
from mmalign.builtin.parts import mmalign_objectives
from mmalign.parts import Parts
from mmalign.processes import PROCESSES, process_class
from mmalign.records import Experience, Prompt, Samples, Scores, Segment
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit import toy, toy_tokens
from unit.toy import rng

SPECS = {spec.name: spec for spec in mmalign_objectives()}
CELLS = [(name, process) for name, spec in SPECS.items() for process in PROCESSES]
FITTING = [(name, process) for name, process in CELLS if SPECS[name].needs <= process_class(process).offers]
ON_ROWS = [(name, process) for name, process in FITTING if SPECS[name].feed == "rows" and process != "scoring"]
ON_ROLLOUTS = [(name, process) for name, process in FITTING if SPECS[name].feed == "rollouts"]

ASKED = {"better": "{prompt}a", "worse": "{prompt}g"}  # the toy knows few letters
GIVEN = {"weighted-sum": {"losses": {"dpo": {"weight": 1.0}, "sft": {"weight": 0.1}}}, "tis-dpo": ASKED, "t-reg": ASKED}


def tokens() -> tuple[Parts, dict[str, list]]:
    """A language model and rows for it."""
    batch = {
        "prompt": [Prompt("ab"), Prompt("c"), Prompt("ddd")],
        "chosen": ["abcdefg", "ga", "e"],
        "rejected": ["abceefg", "bcde", ""],
    }
    return Parts(toy_tokens.policy(), None, []), batch


def denoising() -> tuple[Parts, dict[str, list]]:
    """A denoiser, a differentiable reward, and rows for them."""
    return toy.parts(steps=4), toy.pairs(3)


MADE = {"tokens": tokens, "denoising": denoising}


@pytest.mark.parametrize(
    ("name", "process"), [pytest.param(*cell, marks=pytest.mark.covers(*cell)) for cell in ON_ROWS]
)
def test_a_step_down_the_gradient_lowers_the_loss(name, process):
    made, batch = MADE[process]()
    batch |= {"sample": batch["chosen"], "label": [True, False, True], "score": [0.5, -1.0, 2.0]}
    batch |= {"consistency": [1.0, 0.75, 0.25], "degraded": [Prompt("b"), Prompt("ga"), Prompt("e")]}
    batch |= {"segments": [[Segment(0, 1, {"fact": label})] for label in ("accurate", "inaccurate", "accurate")]}
    batch = {column: batch[column] for column in SPECS[name].columns}  # no more than it says that it needs
    objective = options.bind_objective(SPECS[name], GIVEN.get(name, {}))
    found = objective.loss(**objective.terms(made, batch, rng()))
    assert found.values.shape == (3,)
    assert not any(metric.requires_grad for metric in found.metrics.values())
    step = toy.gradient(made, found.values.mean())
    assert step.norm() > 0
    weights = list(made.policy.network.adapter.parameters())
    moved = torch.nn.utils.parameters_to_vector(weights).detach() - 1e-4 * step / step.norm()
    torch.nn.utils.vector_to_parameters(moved, weights)
    assert objective.loss(**objective.terms(made, batch, rng())).values.mean() < found.values.mean()


def length(samples: Samples) -> torch.Tensor:
    """A reward of texts."""
    return torch.tensor([len(text) % 3.0 for text in samples.responses])


def scored(process: str) -> tuple[Parts, Experience]:
    """A buffer of two samples for each of two prompts, the second of which always scores higher."""
    made = MADE[process]()[0]
    if process == "denoising":
        made.policy.sampling = replace(made.policy.sampling, eta=1.0)
    asked = [prompt for prompt in (Prompt("ab"), Prompt("c")) for _ in range(2)]
    scores = Scores(torch.tensor([0.0, 1.0, 0.25, 0.5]))
    reward = WeightedReward([CheckedReward("toy", made.reward or length)], [1.0])
    return replace(made, reward=reward), Experience(made.policy.rollout(asked, range(4)), scores, 2, 4)


@pytest.mark.parametrize(
    ("name", "process"), [pytest.param(*cell, marks=pytest.mark.covers(*cell)) for cell in ON_ROLLOUTS]
)
def test_a_step_on_rollouts_lowers_the_loss(name, process):
    made, experience = scored(process)
    if "values" in SPECS[name].needs:
        made.policy.add_critic()
    required = {option.name: 4 for option in options.described(SPECS[name]) if option.required}
    objective = options.bind_objective(SPECS[name], required)
    batch = {"rollout": experience.rollout, **objective.advantages(made, experience)}
    found = objective.loss(**objective.terms(made, batch, rng()))
    step = toy.gradient(made, found.values.mean())
    assert step.norm() > 0
    weights = list(made.policy.network.adapter.parameters())
    moved = torch.nn.utils.parameters_to_vector(weights).detach() - 1e-5 * step / step.norm()
    torch.nn.utils.vector_to_parameters(moved, weights)
    assert objective.loss(**objective.terms(made, batch, rng())).values.mean() < found.values.mean()


def test_the_page_of_objectives_is_that_of_the_catalogue():
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    ticked = {cell: ["a test"] for cell in FITTING}
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [objectives_table.row(SPECS[name], ticked) for name in sorted(SPECS)]


def test_a_cell_is_ticked_by_a_test_that_passes_and_by_no_other():
    passed = objectives_table.Passed()
    item = SimpleNamespace(
        nodeid="test_x.py::test_y[dpo]", iter_markers=lambda name: [SimpleNamespace(args=("dpo", "tokens"))]
    )
    passed.pytest_collection_modifyitems([item])
    for when, well in (("setup", True), ("call", False)):
        passed.pytest_runtest_logreport(SimpleNamespace(nodeid=item.nodeid, when=when, passed=well))
    assert objectives_table.cell(SPECS["dpo"], "tokens", passed.cells) == "untested"
    passed.pytest_runtest_logreport(SimpleNamespace(nodeid=item.nodeid, when="call", passed=True))
    assert objectives_table.cell(SPECS["dpo"], "tokens", passed.cells) == "✓"
    assert passed.cells["dpo", "tokens"] == ["test_x.py::test_y"]
