"""Objectives on pairs of rollouts, d3po and prdp: golden numbers, where gradient flows, and what a batch must be."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError, options
from mmalign.builtin.parts import mmalign_objectives
from mmalign.objectives import d3po, ddpo, grpo, neighbours, prdp
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.records import Experience, Loss
from unit.toy import ToyModel, gradient, paths, prompts, reward, rng

LOG2 = math.log(2)
numbers = st.floats(-0.5, 0.5)
few = settings(max_examples=40)


def doubles(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def preferred(first, second, scores=(1.0, 0.0), **options):
    """d3po of one pair whose log-ratios at each step are `first` and `second`."""
    ratios = doubles(first, second)
    return d3po.loss(ratios, torch.zeros_like(ratios), torch.ones_like(ratios), doubles(*scores), **options)


def regressed(first, second, scores=(1.0, 0.0), old=None, **options):
    """prdp of the same."""
    ratios = doubles(first, second)
    before = ratios if old is None else doubles(*old)
    return prdp.loss(ratios, before, torch.zeros_like(ratios), torch.ones_like(ratios), doubles(*scores), **options)


def inside(found: Loss) -> float:
    """What -log σ was taken of."""
    return -math.log(math.expm1(found.values.item()))


# ---- d3po


def test_d3po_at_the_reference_is_log_two():
    assert preferred([0.0, 0.0], [0.0, 0.0]).values.tolist() == pytest.approx([LOG2], abs=1e-12)


@few
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4))
def test_d3po_is_bounded_by_its_clip(ratios):
    """|inside| <= β (log(1 + ϵ) - log(1 - ϵ)) = 0.02007 with the defaults."""
    first, second = zip(*ratios, strict=True)
    assert abs(inside(preferred(first, second))) <= 0.1 * (math.log(1.1) - math.log(0.9)) + 1e-12


def test_the_bounds_of_d3po_are_reached():
    assert preferred([1.0], [-1.0]).values.item() == pytest.approx(0.6832, abs=1e-4)
    assert preferred([-1.0], [1.0]).values.item() == pytest.approx(0.7032, abs=1e-4)
    assert inside(preferred([1.0], [-1.0])) == pytest.approx(0.02007, abs=1e-5)


@few
@given(numbers, numbers)
def test_other_scores_turn_d3po_round(a, b):
    """Swapping the samples with their scores changes nothing; swapping the scores alone negates what is inside."""
    won, lost = preferred([a], [b], (1.0, 0.0)), preferred([a], [b], (0.0, 1.0))
    assert preferred([b], [a], (0.0, 1.0)).values.item() == pytest.approx(won.values.item(), abs=1e-12)
    assert inside(won) == pytest.approx(-inside(lost), abs=1e-9)
    assert (won.values + lost.values).item() >= 2 * LOG2 - 1e-12


@pytest.mark.parametrize("scores", [(0.5, 0.5), (float("nan"), 0.5)])
def test_a_tie_in_d3po_teaches_nothing(scores):
    ratios = doubles([0.02], [-0.03]).requires_grad_()
    found = d3po.loss(ratios, torch.zeros_like(ratios), torch.ones_like(ratios), doubles(*scores))
    assert found.values.tolist() == pytest.approx([LOG2])
    assert found.metrics["tied"] == 1
    (slope,) = torch.autograd.grad(found.values.sum(), ratios)
    assert slope.abs().max() == 0


def test_no_gradient_flows_outside_the_clip_of_d3po_on_either_side():
    """Unlike PPO's, which is open on the side that has to come back."""
    ratios = doubles([0.05, 0.5, -0.5], [-0.05, -0.5, 0.5]).requires_grad_()
    found = d3po.loss(ratios, torch.zeros_like(ratios), torch.ones_like(ratios), doubles(1.0, 0.0))
    (slope,) = torch.autograd.grad(found.values.sum(), ratios)
    assert slope[0, 0] < 0 < slope[1, 0]
    assert slope[:, 1:].abs().max() == 0
    assert found.metrics["clipped"].item() == pytest.approx(2 / 3)


def test_d3po_is_one_loss_a_step_and_their_mean():
    both = preferred([0.05, -0.02], [0.01, 0.03]).values
    assert_close(both, (preferred([0.05], [0.01]).values + preferred([-0.02], [0.03]).values) / 2)


def test_units_that_do_not_count_change_nothing():
    ratios, mask = doubles([0.05, 9.0], [0.01, -9.0]), doubles([1, 0], [1, 0])
    zero, scores = torch.zeros_like(ratios), doubles(1.0, 0.0)
    assert_close(d3po.loss(ratios, zero, mask, scores).values, preferred([0.05], [0.01]).values)
    found = prdp.loss(ratios, ratios, zero, mask, scores, beta=10.0)
    assert_close(found.values, regressed([0.05], [0.01], beta=10.0).values)


# ---- prdp


@few
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), numbers, numbers, st.floats(0.1, 10))
def test_prdp_is_the_squared_error_of_the_reward_difference(ratios, r_a, r_b, beta):
    """Where nothing is clipped; and it is the same seen from the other side, and with a constant added to both rewards."""
    first, second = zip(*ratios, strict=True)
    expected = (sum(first) / len(first) - sum(second) / len(second) - (r_a - r_b) / beta) ** 2
    for one in (
        regressed(first, second, (r_a, r_b), beta=beta),
        regressed(second, first, (r_b, r_a), beta=beta),
        regressed(first, second, (r_a + 3, r_b + 3), beta=beta),
    ):
        assert one.values.item() == pytest.approx(expected, abs=1e-9)
    summed = regressed(first, second, (r_a, r_b), beta=beta, units="sum").values.item()
    assert summed == pytest.approx((sum(first) - sum(second) - (r_a - r_b) / beta) ** 2, abs=1e-9)


def test_prdp_at_the_reference_is_the_squared_reward_difference():
    assert regressed([0, 0], [0, 0], (0.7, 0.2), beta=0.1).values.item() == pytest.approx(25)


def test_prdp_is_nothing_where_the_policy_is_the_optimum():
    assert regressed([0.3, 0.1], [-0.1, -0.1], (0.9, 0.3), beta=2.0).values.item() == pytest.approx(0, abs=1e-15)


@few
@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers), numbers, st.floats(1e-3, 0.2))
def test_the_proximal_loss_is_never_below_the_plain_one(now, old, gap, clip):
    plain = regressed([now[0]], [now[1]], (gap, 0.0), beta=1.0).values.item()
    found = regressed([now[0]], [now[1]], (gap, 0.0), old=([old[0]], [old[1]]), beta=1.0, clip=clip).values.item()
    assert found >= plain - 1e-12
    if max(abs(now[0] - old[0]), abs(now[1] - old[1])) < clip:
        assert found == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize(("gap", "flows"), [(1.0, False), (-1.0, True)])
def test_prdp_stops_at_the_edge_of_the_neighbourhood_on_the_way_out_alone(gap, flows):
    ratios = doubles([0.3], [0.0]).requires_grad_()
    zero = torch.zeros(2, 1, dtype=torch.float64)
    found = prdp.loss(ratios, zero, zero, zero + 1, doubles(gap, 0.0), beta=1.0, clip=0.1)
    (slope,) = torch.autograd.grad(found.values.sum(), ratios)
    assert (slope[0].abs().item() > 0) == flows


def test_a_pair_without_a_score_is_counted_and_teaches_nothing():
    ratios = doubles([0.1], [0.0], [0.2], [0.0]).requires_grad_()
    scores = doubles(float("nan"), 0.0, 1.0, 0.0)
    found = prdp.loss(ratios, ratios.detach(), torch.zeros_like(ratios), torch.ones_like(ratios), scores, beta=1.0)
    assert found.values.tolist() == pytest.approx([0, 0.64])
    assert found.metrics["unscored"] == 0.5
    (slope,) = torch.autograd.grad(found.values.sum(), ratios)
    assert slope[:2].abs().max() == 0
    assert slope.isfinite().all()


# ---- on a policy


def made(path: str = "epsilon") -> Parts:
    eta = 1.0 if path != "flow" else 0.7
    return Parts(DenoisingPolicy(ToyModel(paths()[path]), Sampling(4, 2.0, eta=eta)), None, [], reward)


def collected(parts: Parts, n: int = 2) -> dict:
    """A batch of `n` pairs as a feed makes it: a rollout, and rows of what is worked out once a buffer."""
    asked = [prompt for prompt in prompts(n) for _ in range(2)]
    rollout = parts.policy.rollout(asked, range(2 * n))
    experience = Experience(rollout, parts.reward(rollout.samples), group=2, at_once=3)
    return {"rollout": rollout, **neighbours.advantages(parts, experience)}


def zeroed(parts: Parts) -> Parts:
    for weight in parts.policy.network.adapter.parameters():
        weight.data.zero_()
    return parts


def test_what_is_worked_out_of_a_buffer_is_scores_and_the_reference():
    parts = made()
    batch = collected(parts, 3)
    with torch.no_grad(), parts.policy.reference():
        reference = parts.policy.replay(batch["rollout"]).values
    assert_close(batch["reference_log_probs"], reference)
    assert_close(batch["scores"], parts.reward(batch["rollout"].samples).values)
    found = prdp.terms(parts, batch, rng())
    assert found["log_probs"].requires_grad
    assert_close(found["old_log_probs"], found["log_probs"].detach())
    assert not found["reference_log_probs"].allclose(found["old_log_probs"])


@pytest.mark.parametrize("path", paths())
def test_before_any_update_both_are_what_the_formulas_say(path):
    parts = zeroed(made(path))
    batch = collected(parts)
    assert_close(d3po.loss(**d3po.terms(parts, batch, rng())).values, torch.full((2,), LOG2, dtype=torch.float64))
    gaps = batch["scores"][0::2] - batch["scores"][1::2]
    found = prdp.loss(**prdp.terms(parts, batch, rng()), beta=0.1)
    assert_close(found.values, (gaps / 0.1) ** 2, rtol=1e-5, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("objective", [d3po, prdp])
@pytest.mark.parametrize("path", ["epsilon", "flow"])
def test_a_descent_lifts_the_better_over_the_worse(objective, path):
    parts = zeroed(made(path))
    batch = collected(parts)
    slope = gradient(parts, objective.loss(**objective.terms(parts, batch, rng()), clip=0.5).values.sum())
    weights = neighbours.difference(batch["scores"])
    if objective is d3po:
        weights = weights.sign()
    lead = (weights * neighbours.difference(parts.policy.replay(batch["rollout"]).mean())).sum()
    ascent = gradient(parts, lead)
    # At the reference the loss falls exactly along what sets the better apart.
    assert torch.cosine_similarity(slope, ascent, dim=0).item() == pytest.approx(-1, abs=1e-6)


def test_neighbours_must_be_of_one_prompt():
    parts = made()
    batch = collected(parts)
    with pytest.raises(UserError, match="even number of samples"):
        neighbours.terms(parts, {**batch, "rollout": batch["rollout"][:3]}, rng())
    samples = replace(batch["rollout"].samples, prompts=prompts(4))
    with pytest.raises(UserError, match="neighbours of one prompt"):
        neighbours.terms(parts, {**batch, "rollout": replace(batch["rollout"], samples=samples)}, rng())


def test_both_are_offered_to_whatever_rolls_out():
    specs = {spec.name: spec for spec in mmalign_objectives()}
    assert specs["d3po"].needs == specs["prdp"].needs == {"rollouts"}
    assert specs["d3po"].needs <= DenoisingPolicy.offers
    assert options.complete(specs["d3po"], {}) == {"beta": 0.1, "clip": 0.1}
    assert options.complete(specs["prdp"], {}) == {"beta": 3e-5, "clip": 1e-6, "units": "mean"}


def test_ddpo_trains_denoising_steps_as_it_does_tokens():
    """The first update of any objective on rollouts: every ratio is 1 and nothing is clipped."""
    parts = made("flow")
    asked = [prompt for prompt in prompts(2) for _ in range(2)]
    rollout = parts.policy.rollout(asked, range(4))
    experience = Experience(rollout, parts.reward(rollout.samples), group=2, at_once=4)
    for objective in (ddpo, grpo):
        batch = {"rollout": rollout, **objective.advantages(parts, experience)}
        found = objective.loss(**objective.terms(parts, batch, rng()))
        assert found.metrics["ratio"].item() == pytest.approx(1, abs=1e-6)
        assert found.metrics["clip_fraction"] == 0
        slope = gradient(parts, found.values.sum())
        by_hand = -(batch["advantages"] * parts.policy.replay(rollout).values).mean(dim=1).sum()
        assert_close(slope, gradient(parts, by_hand))


@pytest.mark.parametrize("path", ["epsilon", "flow"])
@pytest.mark.parametrize(("objective", "given"), [(d3po, {"beta": 1.0}), (prdp, {"beta": 0.03, "clip": 1e-2})])
def test_the_reward_of_unseen_seeds_rises(objective, given, path):
    parts = made(path)
    policy, asked = parts.policy, [prompt for prompt in prompts(4) for _ in range(4)]
    optimiser = torch.optim.Adam(policy.network.adapter.parameters(), lr=0.02)

    def judged() -> float:
        return reward(policy.sample(asked, range(1000, 1016))).values.mean().item()

    before = judged()
    for update in range(12):
        rollout = policy.rollout(asked, range(16 * update, 16 * update + 16))
        experience = Experience(rollout, reward(rollout.samples), group=4, at_once=16)
        batch = {"rollout": rollout, **neighbours.advantages(parts, experience)}
        optimiser.zero_grad()
        objective.loss(**objective.terms(parts, batch, rng()), **given).values.mean().backward()
        optimiser.step()
    assert judged() > before
