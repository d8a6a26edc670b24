"""Every objective on every process that offers what it needs: one small step down its gradient lowers its loss.

The cells of docs/objectives.md are ticked by the marker `covers` (objective, process) of tests such as this one.
"""

from pathlib import Path

import pytest
import torch
from unit import toy, toy_tokens
from unit.toy import rng

from mmalign import options
from mmalign.builtin.parts import mmalign_objectives
from mmalign.parts import Parts
from mmalign.processes import PROCESSES, process_class
from mmalign.records import Prompt

SPECS = {spec.name: spec for spec in mmalign_objectives()}
CELLS = [(name, process) for name, spec in SPECS.items() for process in PROCESSES]
FITTING = [(name, process) for name, process in CELLS if SPECS[name].needs <= process_class(process).offers]

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
    ("name", "process"), [pytest.param(*cell, marks=pytest.mark.covers(*cell)) for cell in FITTING]
)
def test_a_step_down_the_gradient_lowers_the_loss(name, process):
    made, batch = MADE[process]()
    batch |= {"sample": batch["chosen"], "label": [True, False, True], "score": [0.5, -1.0, 2.0]}
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


def test_the_page_of_objectives_knows_them_all():
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert [name for name in SPECS if f"| `{name}` |" not in page] == []
