"""Weighted, regularised and self-played regression on samples: golden weights, limits, and both processes, in float64."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError, options, plugins
from mmalign.objectives import dpo, flow_rwr, paired, rwr, sft, spin, superhf
from mmalign.parts import Parts
from mmalign.records import Prompt
from unit import toy, toy_tokens
from unit.toy import rng

EXACT = {"atol": 1e-9, "rtol": 0}
SCORES = [0.5, -1.0, 2.0]


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def made(process: str) -> tuple[Parts, dict[str, list]]:
    """A toy model and a batch of scored samples for it."""
    if process == "denoising":
        pairs = toy.pairs(3)
        return toy.parts(steps=3), {"prompt": pairs["prompt"], "sample": pairs["chosen"], "score": SCORES}
    prompts = [Prompt("ab"), Prompt("c"), Prompt("ddd")]
    batch = {"prompt": prompts, "sample": ["abc", "gfedcba", "e"], "score": SCORES}
    return Parts(toy_tokens.policy(), None, []), batch


def bound(name: str, **given):
    return options.bind_objective(plugins.load(installed=False).catalogue.find("objective", name).spec, given)


BOTH = pytest.mark.parametrize("process", ["tokens", "denoising"])

# ---- weights


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.5, (0.0158762, 0.1173104, 0.8668133)),
        (1.0, (0.0900306, 0.2447285, 0.6652410)),
        (10.0, (0.3006096, 0.3322250, 0.3671654)),
    ],
)
def test_golden_weights_of_rwr(temperature, expected):
    scores = doubles(1, 2, 3)
    found = rwr.softmax_weights(scores, scores.expand(3, 3), temperature)
    assert_close(found / 3, doubles(*expected), atol=1e-7, rtol=0)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=6), st.floats(-50, 50), st.floats(0.1, 50))
def test_softmax_weights_are_one_on_average_and_do_not_see_a_constant(scores, constant, temperature):
    r = doubles(*scores)
    rivals = r.expand(len(r), -1)
    found = rwr.softmax_weights(r, rivals, temperature)
    assert found.mean().item() == pytest.approx(1)
    assert_close(rwr.softmax_weights(r + constant, rivals + constant, temperature), found, rtol=1e-6, atol=1e-12)


def test_softmax_weights_at_both_ends_of_the_temperature():
    r = doubles(1, 2, 3)
    rivals = r.expand(3, 3)
    assert_close(rwr.softmax_weights(r, rivals, 1e9), torch.ones(3, dtype=torch.float64), atol=1e-8, rtol=0)
    assert_close(rwr.softmax_weights(r, rivals, 1e-3), doubles(0, 0, 3))


def test_rivals_are_those_of_the_rows_own_prompt():
    """Two rows of one prompt with three samples, one of a prompt with two."""
    scores = doubles(1, 2, 0)
    rivals = doubles(1, 2, 3, 1, 2, 3, 5, 0, -math.inf).view(3, 3)
    found = rwr.softmax_weights(scores, rivals, 1.0)
    assert_close(found, doubles(3 * 0.0900305732, 3 * 0.2447284711, 2 / (1 + math.exp(5))), **EXACT)


def test_rwr_of_equal_scores_is_sft():
    log_probs, scores = doubles(-1, -2, -4), doubles(7, 7, 7)
    assert_close(rwr.loss(log_probs, scores, scores.expand(3, 3)).values, sft.loss(log_probs).values)


def test_flow_rwr_is_sft_times_the_exponential_and_its_weights_are_clamped():
    log_probs = doubles(-1, -2, -3)
    found = flow_rwr.loss(log_probs, doubles(0, 1, 900))
    assert_close(found.values, doubles(1, 2 * math.e, 3 * math.exp(5)))
    shifted = flow_rwr.loss(log_probs, doubles(1.5, 2.5, 1.5)).values
    assert_close(shifted, math.exp(1.5) * flow_rwr.loss(log_probs, doubles(0, 1, 0)).values)
    assert flow_rwr.loss(log_probs, doubles(0, 1, -900), limit=2).metrics["largest_weight"].item() == pytest.approx(
        math.e
    )


@BOTH
def test_scores_and_rivals_come_from_the_rows_or_the_batch(process):
    parts, batch = made(process)
    found = rwr.terms(parts, batch, rng())
    assert_close(found["scores"], doubles(*SCORES))
    assert_close(found["rivals"], doubles(*SCORES).expand(3, 3))
    told = rwr.terms(parts, {**batch, "rivals": [[0.5, 1.0], [-1.0], [2.0, 3.0]]}, rng())["rivals"]
    assert_close(told, doubles(0.5, 1.0, -1.0, -math.inf, 2.0, 3.0).view(3, 2))
    assert_close(found["log_probs"], sft.terms(parts, batch, rng())["log_probs"])


@pytest.mark.parametrize(("name", "process"), [("rwr", "tokens"), ("rwr", "denoising"), ("nft", "denoising")])
def test_a_row_alone_needs_rivals(name, process):
    parts, batch = made(process)
    alone = {column: rows[:1] for column, rows in batch.items()}
    with pytest.raises(UserError, match=r"a row without `rivals` .* set trainer\.batch_size to 2"):
        bound(name).terms(parts, alone, rng())
    bound(name).terms(parts, {**alone, "rivals": [[0.5, 1.0]]}, rng())


# ---- SuperHF


def test_superhf_is_sft_and_the_weighted_divergence():
    found = superhf.loss(doubles(-1, -2), doubles(0.1, 0.4))
    assert_close(found.values, doubles(1 + 0.035, 2 + 0.14))
    assert_close(superhf.loss(doubles(-1, -2), doubles(0.1, 0.4), weight=0).values, doubles(1, 2))


@BOTH
def test_the_divergence_of_superhf_is_a_mean_over_units_and_pulls_back_to_the_reference(process):
    parts, batch = made(process)
    weights = list(parts.policy.network.adapter.parameters())
    kl = superhf.terms(parts, batch, rng())["kl"]
    step = toy.gradient(parts, kl.mean())
    moved = torch.nn.utils.parameters_to_vector(weights).detach() - 1e-3 * step / step.norm()
    torch.nn.utils.vector_to_parameters(moved, weights)
    assert superhf.terms(parts, batch, rng())["kl"].mean() < kl.mean()
    rows, draw = sft.drawn(parts, batch, rng())
    found = parts.policy.compared(rows, draw).divergence
    assert_close(superhf.terms(parts, batch, rng())["kl"], found.sum() / found.mask.sum(dim=1))


# ---- SPIN


@BOTH
def test_spin_plays_the_given_samples_against_the_references_own(process):
    parts, batch = made(process)
    seen, encode, sample = [], parts.policy.encode, parts.policy.sample
    parts.policy.encode = lambda prompts, media, stream: seen.append(list(media)) or encode(prompts, media, stream)
    states = []
    parts.policy.sample = lambda prompts, seeds: states.append(parts.policy.network.on) or sample(prompts, seeds)
    terms = spin.terms(parts, batch, rng())
    assert states == [False]
    winners, losers = seen[0][:3], seen[0][3:]
    assert all(a is b for a, b in zip(winners, batch["sample"], strict=True))
    parts.policy.encode, parts.policy.sample = encode, sample
    stream = rng()
    seeds = torch.randint(2**31, (3,), generator=stream).tolist()
    with parts.policy.reference():
        own = list(sample(batch["prompt"], seeds).made)
    assert all(a == b if isinstance(a, str) else a.equal(b) for a, b in zip(losers, own, strict=True))
    assert len(set(map(str, own))) == 3
    again = paired.terms(parts, {**batch, "chosen": batch["sample"], "rejected": own}, stream)
    assert_close(terms, again)


@BOTH
def test_an_iteration_of_spin_starts_at_log_2(process):
    parts, batch = made(process)
    for weight in parts.policy.network.adapter.parameters():
        weight.data.zero_()
    found = dpo.loss(**spin.terms(parts, batch, rng())).values
    assert_close(found, torch.full((3,), math.log(2), dtype=torch.float64))


def test_a_low_score_weighs_little():
    """Of two rows the gradient is nearly that of the better one alone."""
    policy = SimpleNamespace(encode=lambda *a: None, draw=lambda *a: None)
    values = doubles(-1.0, -1.0).requires_grad_()
    policy.log_likelihood = lambda rows, draw: SimpleNamespace(mean=lambda: values)
    objective = bound("rwr", temperature=0.1)
    batch = {"prompt": [None] * 2, "sample": [None] * 2, "score": [0.0, 1.0]}
    objective.loss(**objective.terms(Parts(policy, None, []), batch, rng())).values.mean().backward()
    assert values.grad[0].abs() < 1e-4
    assert values.grad[1].item() == pytest.approx(-1, abs=1e-4)
