"""Small promises of the core: weighted rewards, pairing, checkpoints, random streams, and what the core may import."""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import settings

from mmalign import UserError, checkpoint
from mmalign.config import Trainer
from mmalign.data.collect import ranked
from mmalign.engine import Engine, _optimizer, rate
from mmalign.records import Prompt, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.streams import GlobalRandom, Stream

FORBIDDEN = ("diffusers", "transformers", "open_clip", "peft", "torchvision", "PIL")


def samples(n: int) -> Samples:
    return Samples([Prompt("x")] * n, torch.rand(n, 3, 2, 2))


def test_weighted_reward_adds_up_and_logs_raw():
    one = CheckedReward("one", lambda s: torch.ones(len(s)))
    two = CheckedReward("two", lambda s: Scores(torch.arange(len(s)).float()))
    reward = WeightedReward([one, two], [2.0, -1.0])
    assert reward(samples(3)).values.tolist() == [2.0, 1.0, 0.0]
    drained = {name: float(value) for name, value in reward.drain().items()}
    assert {name: drained[name] for name in ("reward/one", "reward/two")} == {"reward/one": 1.0, "reward/two": 1.0}
    assert reward.drain() == {}


@pytest.mark.parametrize("answer", [torch.ones(3, 1), torch.tensor(1.0), None])
def test_a_reward_of_another_shape_is_refused(answer):
    with pytest.raises(UserError, match="one score a sample"):
        CheckedReward("odd", lambda s: answer)(samples(3))


def test_the_best_meets_the_worst_and_ties_meet_nobody():
    nan = float("nan")
    assert ranked(torch.tensor([0.1, 0.9, 0.5])) == [(1, 0)]
    assert ranked(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])) == [(0, 4), (2, 3)]
    assert ranked(torch.tensor([nan, 0.9, 0.5])) == [(1, 2)]
    assert ranked(torch.tensor([1.0, 0.0, 0.75, 0.5]), least_gap=0.25) == [(0, 1), (2, 3)]
    assert ranked(torch.tensor([1.0, 0.0, 0.75, 0.5]), least_gap=0.5) == [(0, 1)]
    assert ranked(torch.tensor([0.5, 0.5])) == ranked(torch.tensor([nan, 0.5])) == ranked(torch.tensor([])) == []


def test_checkpoints_count_only_when_renamed(tmp_path):
    partial = checkpoint.begin(tmp_path, 3)
    checkpoint.write(partial, "shared.pt", {"step": 3})
    checkpoint.write(partial, "rank-0.pt", {"x": torch.ones(2)})
    assert checkpoint.found(tmp_path) == []
    folder = checkpoint.finish(partial, 3)
    shared, own = checkpoint.read(folder, 0)
    assert shared == {"step": 3}
    assert own["x"].tolist() == [1, 1]
    with pytest.raises(UserError, match="processes"):
        checkpoint.read(folder, 1)


def test_pruning_keeps_the_newest(tmp_path):
    for step in (1, 2, 10):
        checkpoint.finish(checkpoint.begin(tmp_path, step), step)
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-000002", "step-000010"]


def test_streams_are_independent_and_go_on():
    first, second = Stream("draws/0/0"), Stream("draws/0/1")
    assert not torch.rand(3, generator=first.generator).equal(torch.rand(3, generator=second.generator))
    state = first.state_dict()
    rest = torch.rand(3, generator=first.generator)
    first.load_state_dict(state)
    assert torch.rand(3, generator=first.generator).equal(rest)


def test_global_random_comes_back():
    import random

    import numpy as np

    kept = GlobalRandom()
    state = kept.state_dict()
    drawn = (torch.rand(1).item(), np.random.rand(), random.random())
    kept.load_state_dict(state)
    assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())


def test_the_core_imports_no_modality_library():
    """All of the core in a fresh process; accelerate and datasets may bring transformers along, so they are left out."""
    code = (
        "import importlib, pkgutil, sys, mmalign\n"
        "for module in pkgutil.walk_packages(mmalign.__path__, 'mmalign.'):\n"
        "    if module.name.split('.')[-1] not in ('engine', 'run', 'plan', '__main__', 'verbs'):\n"
        "        importlib.import_module(module.name)\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.stdout.strip() == "[]", outcome.stdout + outcome.stderr


def test_stages_of_one_process_may_differ_in_precision():
    for precision in ("no", "bf16", "no"):
        engine = Engine(Trainer(steps=1, precision=precision))
        with engine.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("size", [0.0, 0.02])
def test_a_first_step_is_as_long_as_the_learning_rate_says(optimizer, size):
    """Also of weights that are 0, as half of LoRA's matrices are: Adafactor as it comes would go a thousandth of the way."""
    weight = torch.nn.Parameter(torch.full((8, 8), size))
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(steps=1, optimizer=optimizer, learning_rate=1e-4, weight_decay=0.0)
    _optimizer(trainer, [weight]).step()
    assert (weight.detach() - size).square().mean().sqrt().item() == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]), ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])],
)
def test_the_learning_rate_warms_up_and_falls_as_scheduled(schedule, rates):
    trainer = Trainer(steps=6, warmup_steps=2, schedule=schedule)
    assert [rate(trainer, step) for step in range(6)] == pytest.approx(rates)


def test_the_cosine_schedule_is_half_way_in_the_middle_and_never_nothing():
    trainer = Trainer(steps=10, schedule="cosine")
    rates = [rate(trainer, step) for step in range(10)]
    assert rates[0] == 1
    assert rates[5] == pytest.approx(0.5)
    assert all(one > other > 0 for one, other in itertools.pairwise(rates))


def test_a_run_of_warming_up_alone_has_a_rate_to_its_end():
    assert [rate(Trainer(steps=2, warmup_steps=2, schedule="linear"), step) for step in range(3)] == [1 / 3, 2 / 3, 0]


def test_no_example_of_a_property_has_a_deadline():
    assert settings().deadline is None
