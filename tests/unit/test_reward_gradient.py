"""What the papers choose in reward back-propagation (depths, steps), re-noising as an average, and the drift."""

import pytest
import torch
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.objectives import alignprop, draft, drtune, refl, reward_gradient
from mmalign.samplers.gradient import Plan
from unit.toy import gradient, parts, prompts, rng

BATCH = {"prompt": prompts(3)}


def planned(monkeypatch, module, steps: int, draws: int, **given) -> list[Plan]:
    """The plans of many batches, without sampling anything."""
    seen: list[Plan] = []
    monkeypatch.setattr(reward_gradient, "terms", lambda parts, batch, rng, plan, drift: seen.append(plan))
    made, stream = parts(steps=steps), rng(0)
    for _ in range(draws):
        module.terms(made, BATCH, stream, **given)
    return seen


@pytest.mark.parametrize("truncation", ["normal", "uniform"])
@pytest.mark.parametrize("steps", [2, 3, 5, 10, 50])
def test_alignprop_trains_the_last_steps_but_never_all(monkeypatch, truncation, steps):
    for plan in planned(monkeypatch, alignprop, steps, 60, truncation=truncation):
        first = min(plan.trained)
        assert plan.trained == frozenset(range(first, steps))
        assert 1 <= first < steps


def test_alignprop_is_as_deep_at_ten_steps_as_at_fifty(monkeypatch):
    depths = [
        torch.tensor([len(plan.trained) / steps for plan in planned(monkeypatch, alignprop, steps, 1000)]).mean()
        for steps in (10, 50)
    ]
    assert depths[1].item() == pytest.approx(9.1 / 50, abs=0.02)
    assert depths[0].item() == pytest.approx(depths[1].item(), abs=0.06)


def test_refl_trains_steps_30_to_39_of_40(monkeypatch):
    plans = planned(monkeypatch, refl, 40, 300)
    assert {plan.stop for plan in plans} == set(range(30, 40))
    assert all(plan.trained == {plan.stop} for plan in plans)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_refl_always_finds_a_late_step(monkeypatch, steps):
    assert all(3 * steps // 4 <= plan.stop < steps for plan in planned(monkeypatch, refl, steps, 30))


def test_refl_keeps_to_its_window(monkeypatch):
    assert {plan.stop for plan in planned(monkeypatch, refl, 8, 60, window=(0.375, 0.625))} == {3, 4}
    assert {plan.stop for plan in planned(monkeypatch, refl, 8, 10, window=(0.9, 0.95))} == {7}


def test_refl_refuses_a_window_that_does_not_rise(monkeypatch):
    with pytest.raises(UserError, match=r"objective\.window: must rise, not 0\.6 to 0\.4"):
        planned(monkeypatch, refl, 8, 1, window=(0.6, 0.4))


def test_drtune_spreads_three_steps_and_stops_in_the_last_two_fifths(monkeypatch):
    plans = planned(monkeypatch, drtune, 50, 600)
    assert {plan.stop for plan in plans} == set(range(50 - 20, 50))
    assert {min(plan.trained) for plan in plans} == set(range(16))
    for plan in plans:
        first = min(plan.trained)
        assert plan.trained == {step for step in (first, first + 16, first + 32) if step <= plan.stop}
        assert plan.detach_input


@pytest.mark.parametrize(("steps", "k"), [(1, 1), (5, 1), (10, 1), (2, 2), (3, 3), (5, 3), (8, 3), (8, 8)])
def test_drtune_always_trains_a_step_that_is_reached(monkeypatch, steps, k):
    for plan in planned(monkeypatch, drtune, steps, 40, k=k):
        assert plan.trained
        assert max(plan.trained) <= plan.stop < steps


def test_renoised_losses_are_averaged_with_the_first():
    """The mean over [(1 + n) B] is the sum of the n + 1 losses over n + 1, in value and in gradient."""
    made = parts(steps=4)
    terms = draft.terms(made, BATCH, rng(), renoise=2)
    loss = draft.objective.loss(**terms).values
    one_by_one = [-terms["rewards"][i : i + 3].mean() for i in (0, 3, 6)]
    expected = gradient(made, sum(one_by_one[1:], one_by_one[0]) / 3)
    again = draft.objective.loss(**draft.terms(made, BATCH, rng(), renoise=2)).values
    assert_close(loss.mean(), torch.stack(one_by_one).mean())
    assert_close(gradient(made, again.mean()), expected)


def test_without_drift_nothing_more_is_computed():
    made = parts(steps=3, guidance_scale=1.0)
    terms = draft.terms(made, BATCH, rng())
    assert set(terms) == {"rewards"}
    assert len(made.policy.network.inputs) == 3


@pytest.mark.parametrize(("module", "given"), [(draft, {"renoise": 1}), (alignprop, {}), (refl, {}), (drtune, {})])
def test_drift_adds_its_weighted_penalty_to_every_shape(module, given):
    made = parts(steps=4)
    plain = module.objective.loss(**module.terms(made, BATCH, rng(), **given))
    terms = module.terms(made, BATCH, rng(), drift=7.0, **given)
    found = module.objective.loss(**terms)
    assert (terms["penalty"] > 0).all()
    assert_close(found.values, plain.values + terms["penalty"])
    assert_close(found.metrics["penalty"], terms["penalty"].mean().detach())
    doubled = module.terms(made, BATCH, rng(), drift=14.0, **given)
    assert_close(doubled["penalty"], 2 * terms["penalty"])


def test_drift_is_nothing_at_the_reference_and_pulls_back_to_it():
    made = parts(steps=3)
    weights = list(made.policy.network.adapter.parameters())
    penalty = draft.terms(made, BATCH, rng(), drift=1.0)["penalty"]
    slope = gradient(made, penalty.mean())
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(weights) - 1e-3 * slope, weights)
    assert draft.terms(made, BATCH, rng(), drift=1.0)["penalty"].mean() < penalty.mean()
    for weight in weights:
        weight.data.zero_()
    assert draft.terms(made, BATCH, rng(), drift=1.0)["penalty"].abs().max() == 0
