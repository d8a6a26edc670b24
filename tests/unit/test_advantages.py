"""Advantages against the golden numbers and invariants of methods-lvlm 7 and 10, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign.maths import advantages

NAN, INF = float("nan"), float("inf")
EXACT = {"atol": 1e-9, "rtol": 0}
SCORES = st.lists(st.floats(-50, 50), min_size=8, max_size=8).map(lambda values: doubles(*values))


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- groups


def test_golden_numbers_of_groups():
    found = advantages.grouped(doubles(1, 0, 0, 1), 4)
    assert_close(found, doubles(1, -1, -1, 1) * 0.5 / (3**-0.5 + 1e-4), **EXACT)
    assert found[0].item() == pytest.approx(0.86588, abs=1e-5)
    assert_close(advantages.leave_one_out(doubles(1, 2, 3, 6), 4), doubles(-8 / 3, -4 / 3, 0, 4), **EXACT)


@given(SCORES, st.sampled_from(["group", "batch", "none"]))
def test_advantages_of_a_group_add_up_to_nothing(rewards, spread):
    for found in (advantages.grouped(rewards, 4, spread), advantages.leave_one_out(rewards, 4)):
        assert_close(found.view(2, 4).sum(1), doubles(0, 0), atol=1e-6, rtol=0)


@given(SCORES)
def test_leaving_one_out_is_a_multiple_of_the_difference_from_the_mean(rewards):
    centred = advantages.grouped(rewards, 4, "none")
    assert_close(advantages.leave_one_out(rewards, 4), centred * 4 / 3, atol=1e-9, rtol=1e-9)


def test_a_constant_changes_nothing_and_a_factor_next_to_nothing():
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = advantages.grouped(rewards, 4)
    assert_close(advantages.grouped(rewards + 7, 4), found, **EXACT)
    assert_close(advantages.grouped(rewards * 100, 4), found, atol=0, rtol=2e-3)


def test_two_rewards_collapse_in_a_sum_and_not_when_each_is_normalised_first():
    one, both = doubles(0, 1), doubles(0, 2)
    assert_close(advantages.grouped(one, 2, eps=0), advantages.grouped(both, 2, eps=0), **EXACT)
    first = advantages.grouped(doubles(0, 1), 2, eps=0)
    assert_close(first, doubles(-1, 1) * 0.5**0.5, **EXACT)
    assert_close(first + first, doubles(-1, 1) * 2**0.5, **EXACT)


def test_the_deviation_is_of_the_group_or_of_the_batch():
    rewards = doubles(0, 1, 0, 10)
    assert_close(advantages.grouped(rewards, 2, "group", eps=0), doubles(-1, 1, -1, 1) * 0.5**0.5, **EXACT)
    of_batch = advantages.grouped(rewards, 2, "batch", eps=0)
    assert_close(of_batch, doubles(-0.5, 0.5, -5, 5) / rewards.std(), **EXACT)
    assert_close(advantages.grouped(rewards, 2, "none"), doubles(-0.5, 0.5, -5, 5), **EXACT)


@pytest.mark.parametrize("spread", ["group", "batch", "none"])
def test_what_tells_nothing_has_advantage_nothing(spread):
    third = [0.1 + 0.2, 0.3 + 1e-17, 0.1 + 0.2]  # whose mean is not quite what they are
    for rewards, group in ((doubles(*third, *third), 3), (doubles(5, 6), 1), (doubles(NAN, 1, NAN, NAN), 2)):
        for found in (advantages.grouped(rewards, group, spread), advantages.leave_one_out(rewards, group)):
            assert found.abs().max() < 1e-12


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_unscored_sample_is_as_if_it_were_not_there(bad):
    found, without = doubles(1, bad, 3, 4), doubles(1, 3, 4)
    for function in (
        lambda rewards, group: advantages.grouped(rewards, group),
        lambda rewards, group: advantages.grouped(rewards, group, "batch"),
        advantages.leave_one_out,
    ):
        among = function(found, 4)
        assert among[1] == 0
        assert_close(among[[0, 2, 3]], function(without, 3), **EXACT)


def test_groups_that_tell_nothing_are_known():
    rewards = doubles(1, 1, 1, 2, NAN, 3, NAN, INF)
    assert advantages.tied(rewards, 2).tolist() == [True, False, True, True]
    assert advantages.tied(doubles(1, 2), 1).tolist() == [True, True]


def test_a_prompt_with_few_scores_is_compared_with_the_batch():
    rewards = doubles(1, 2, 3, NAN)
    past = [[1.0] * 3, [0.0, 2.0, 4.0], [3.0], []]
    found = advantages.running(rewards, past, least=3, eps=1e-6)
    batch = doubles(1, 2, 3)
    assert found[0] == 0
    assert found[1].item() == pytest.approx(0)
    assert found[2].item() == pytest.approx((3 - 2) / (batch.std(correction=0).item() + 1e-6))
    assert found[3] == 0


# ---- units


REWARDS, VALUES = doubles(0, 0.5, 0, 1)[None], doubles(0.2, 0.3, 0.4, 0.5)[None]
ONES = torch.ones_like(REWARDS)


def test_golden_numbers_of_gae():
    found = advantages.generalised(REWARDS, VALUES, ONES, gamma=1, lam=0.95)
    assert_close(found, doubles(1.1889375, 1.14625, 0.575, 0.5)[None], **EXACT)
    assert_close(found + VALUES, doubles(1.3889375, 1.44625, 0.975, 1.0)[None], **EXACT)
    whole = advantages.generalised(REWARDS, VALUES, ONES, gamma=1, lam=1)
    assert_close(whole, doubles(1.3, 1.2, 0.6, 0.5)[None], **EXACT)


def test_gae_without_lambda_is_one_step_and_with_it_the_return():
    step = advantages.generalised(REWARDS, VALUES, ONES, gamma=0.9, lam=0)
    ahead = torch.cat([VALUES[:, 1:], doubles(0)[None]], dim=1)
    assert_close(step, REWARDS + 0.9 * ahead - VALUES, **EXACT)
    returns = advantages.generalised(REWARDS, VALUES, ONES, gamma=1, lam=1) + VALUES
    assert_close(returns, REWARDS.flip(1).cumsum(1).flip(1), **EXACT)


def test_what_stands_after_the_end_changes_nothing():
    padded = [torch.cat([rows, torch.full((1, 3), 9.0)], dim=1) for rows in (REWARDS, VALUES)]
    mask = torch.cat([ONES, torch.zeros(1, 3)], dim=1)
    found = advantages.generalised(*padded, mask, gamma=0.9, lam=0.8)
    assert_close(found[:, :4], advantages.generalised(REWARDS, VALUES, ONES, gamma=0.9, lam=0.8), **EXACT)
    assert (found[:, 4:] == 0).all()


def test_a_score_belongs_to_the_last_unit_that_counts():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).double()
    found = advantages.at_last(doubles(5, 7, 9), mask)
    assert found.tolist() == [[0, 5, 0], [0, 0, 7], [0, 0, 0]]


def test_whitening_is_of_what_counts_alone():
    values = doubles(1, 2, 3, 1000)[None]
    mask = doubles(1, 1, 1, 0)[None]
    found = advantages.whitened(values, mask)
    assert found[0, 3] == 0
    assert found[0, :3].mean().item() == pytest.approx(0, abs=1e-12)
    assert found[0, :3].std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_whitening_that_keeps_the_mean_divides_alone_and_does_not_see_the_size():
    values, mask = doubles(1, 2, 3, 1000)[None], doubles(1, 1, 1, 0)[None]
    kept = advantages.whitened(values, mask, shift_mean=False, eps=0)
    assert_close(kept, values * mask / doubles(1, 2, 3).std(correction=0), **EXACT)
    assert_close(advantages.whitened(5 * values, mask, shift_mean=False, eps=0), kept, **EXACT)
