"""Rewards of texts, and what a weighted sum makes of several: normalised, logged apart, unscored samples kept apart."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError
from mmalign.maths.advantages import grouped
from mmalign.records import Prompt, Samples, Scores
from mmalign.rewards.texts import Length, Regex
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit import toy_runs

NAN = float("nan")


def texts(*said: str) -> Samples:
    return Samples([Prompt("x")] * len(said), list(said))


def fixed(name: str, *values: float | None, units: torch.Tensor | None = None) -> CheckedReward:
    """A reward that says these values, the first to the sample "0" and so on."""

    def score(samples: Samples) -> Scores | list[float | None]:
        rows = [int(text) for text in samples.responses]
        found = [values[row] for row in rows]
        return found if units is None else Scores(torch.tensor(found), units=units[rows])

    return CheckedReward(name, score)


NUMBERED = texts("0", "1", "2", "3")


# ---- texts


def test_golden_numbers_of_the_soft_penalty():
    reward = Length(most=100, slack=20, unit="characters")
    lengths = (70, 80, 90, 100, 101)
    assert reward(texts(*("x" * n for n in lengths))).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert Length(most=2)(texts("a b", "a b c", "")).tolist() == [0.0, -1.0, 0.0]
    with pytest.raises(UserError, match="slack"):
        Length(most=2, slack=3)


def test_a_form_is_found_or_is_all_there_is():
    said = ("<a>1</a>", " <a>1</a>\n", "so: <a>1</a>", "A")
    assert Regex("<a>.*</a>")(texts(*said)).tolist() == [1, 1, 1, 0]
    assert Regex("<a>.*</a>", whole=True)(texts(*said)).tolist() == [1, 1, 0, 0]
    assert Regex("(?i)a$")(texts("A")).tolist() == [1]
    assert Regex("a")(texts()).shape == (0,)
    with pytest.raises(UserError, match="no regular expression"):
        Regex("(")


def test_rewards_of_texts_refuse_pictures():
    with pytest.raises(UserError, match="makes pictures"):
        Regex("a")(Samples([Prompt("x")], torch.zeros(1, 3, 2, 2)))


# ---- sums


def test_a_list_with_holes_is_scores_and_a_hole_in_one_is_a_hole_in_the_sum():
    reward = WeightedReward([fixed("one", 1.0, None, 3.0, 4.0), fixed("two", 1.0, 1.0, 1.0, math.inf)], [1.0, 1.0])
    found = reward(NUMBERED).values
    assert found.isfinite().tolist() == [True, False, True, False]
    drained = reward.drain()
    assert drained["reward/one"].item() == pytest.approx(8 / 3)
    assert drained["reward/two"].item() == 1.0


@pytest.mark.parametrize("how", ["group", "batch"])
def test_normalised_rewards_count_alike_whatever_their_size(how):
    small, large = (0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 1000.0, 1000.0)
    reward = WeightedReward([fixed("small", *small), fixed("large", *large)], [1.0, 1.0], [how, how])
    found = reward(NUMBERED, group=4 if how == "group" else 2).values
    half = 0.5 / (3**-0.5 + 1e-4)
    assert_close(found, torch.tensor([-2 * half, 0.0, 2 * half, 0.0]), atol=1e-3, rtol=0)
    drained = reward.drain()
    assert drained["reward/large"].item() == 500.0
    assert drained["shaped/large"].item() == pytest.approx(drained["shaped/small"].item(), rel=1e-3)


def test_normalising_within_groups_forgets_which_prompt_is_easy():
    reward = WeightedReward([fixed("one", 0.0, 1.0, 100.0, 101.0)], [2.0], ["group"])
    found = reward(NUMBERED, group=2).values
    assert_close(found[:2], found[2:])
    holes = WeightedReward([fixed("one", 0.0, None, 1.0, 3.0)], [1.0], ["group"])(NUMBERED, group=2).values
    assert holes[0] == 0
    assert holes[1].isnan()
    with pytest.raises(UserError, match="normalize"):
        reward.measured(NUMBERED)


def running(*values: float | None) -> WeightedReward:
    return WeightedReward([fixed("one", *values)], [2.0], ["running"])


def test_a_running_reward_is_compared_with_all_that_it_said_until_then():
    reward = running(1.0, 5.0, None, 0.0)
    first, second = reward(texts("0", "1", "2")).values, reward(texts("3", "3")).values
    assert_close(first[:2], 2 * torch.tensor([-2.0, 2.0]) / (8**0.5 + 1e-4))
    assert first[2].isnan()
    seen = torch.tensor([1.0, 5.0, 0.0, 0.0])
    assert_close(second, 2 * (0 - seen.mean()).expand(2) / (seen.std() + 1e-4))
    with pytest.raises(UserError, match="normalize"):
        reward.measured(texts("0"))


def test_a_running_reward_goes_on_where_it_stopped():
    whole, resumed = running(1.0, 5.0, 2.0), running(1.0, 5.0, 2.0)
    whole(texts("0", "1"))
    resumed.load_state_dict(whole.state_dict())
    assert resumed(texts("2")).values.equal(whole(texts("2")).values)
    assert not running(1.0, 5.0, 2.0)(texts("2")).values.equal(whole(texts("2")).values)


def test_a_resumed_run_goes_on_with_what_its_rewards_said(tmp_path):
    reward = WeightedReward([CheckedReward("letters", toy_runs.letters)], [1.0], ["running"])
    ready = toy_runs.made(tmp_path, "grpo", rewards=reward, restored=({}, {"reward": {"letters": [3, 1.0, 2.0]}}))
    assert reward.state_dict() == {"letters": [3, 1.0, 2.0]}
    next(ready.feed)
    assert reward.state_dict()["letters"][0] == 3 + 16


def test_pieces_are_scored_as_the_whole_is():
    units = torch.arange(8.0).view(4, 2)
    dense, plain = fixed("dense", 1.0, 5.0, 9.0, 13.0, units=units), fixed("plain", 1.0, 2.0, 3.0, 4.0)
    reward = WeightedReward([dense, plain], [0.5, 1.0])
    whole, pieces = reward(NUMBERED), reward(NUMBERED, at_once=3)
    assert pieces.values.equal(whole.values)
    assert pieces.units is not None
    assert pieces.units.equal(0.5 * units)
    with pytest.raises(UserError, match=r"dense.*normalize"):
        WeightedReward([dense], [1.0], ["batch"])(NUMBERED)


def test_what_is_only_measured_is_counted_but_not_logged():
    reward = WeightedReward([fixed("one", 1.0, 2.0, 3.0, 4.0), fixed("two", 1.0, 2.0, 3.0, 4.0)], [1.0, 1.0])
    assert reward.measured(NUMBERED).values.tolist() == [2, 4, 6, 8]
    assert reward.drain() == {"queries": 4}  # a sample is asked about once, whatever is made of the answers
    assert reward.drain() == {}
    assert reward(NUMBERED, at_once=3).values.shape == (4,)
    assert reward.drain()["queries"] == 4


# ---- gates


def test_a_closed_gate_leaves_0_of_every_other_reward():
    correct, brief = fixed("correct", 1.0, 0.0, 0.5, None), fixed("brief", 3.0, 3.0, 3.0, 3.0)
    reward = WeightedReward([correct, brief], [2.0, 1.0], gates=[0.5, None])
    assert_close(reward(NUMBERED).values, torch.tensor([5.0, 0.0, 4.0, NAN]), equal_nan=True)
    assert reward(NUMBERED).dimensions["brief"].tolist() == [3.0] * 4  # raw stays raw
    drained = reward.drain()
    assert drained["gate/correct"].item() == pytest.approx(2 / 3)
    assert drained["reward/brief"].item() == 3.0
    assert "gate/brief" not in drained


def test_a_gate_of_weight_0_is_a_gate_alone_and_it_closes_before_anything_is_normalised():
    right, size = fixed("right", 1.0, 0.0, 1.0, 1.0), fixed("size", 10.0, 90.0, 30.0, None)
    reward = WeightedReward([right, size], [0.0, 1.0], ["none", "batch"], [1.0, None])
    found = reward(NUMBERED).values
    expected = (torch.tensor([10.0, 0.0, 30.0]) - 40 / 3) / (torch.tensor([10.0, 0.0, 30.0]).std() + 1e-4)
    assert_close(found[:3], expected)
    assert found[3].isnan()


def test_two_gates_close_each_other_and_what_units_earned():
    units = torch.ones(4, 2)
    one, two = fixed("one", 1.0, 0.0, 1.0, 0.0), fixed("two", 1.0, 1.0, 0.0, 0.0)
    dense = fixed("dense", 2.0, 2.0, 2.0, 2.0, units=units)
    found = WeightedReward([one, two, dense], [1.0, 1.0, 1.0], gates=[1.0, 1.0, None])(NUMBERED)
    assert found.values.tolist() == [4.0, 0.0, 0.0, 0.0]
    assert found.units is not None
    assert found.units.sum(dim=1).tolist() == [2.0, 0.0, 0.0, 0.0]


def test_gradient_flows_through_open_gates_alone():
    pixels = torch.rand(2, 3, 2, 2, requires_grad=True)
    bright = CheckedReward("bright", lambda samples: samples.media.mean(dim=(1, 2, 3)))
    gate = CheckedReward("gate", lambda samples: torch.tensor([1.0, 0.0]))
    reward = WeightedReward([bright, gate], [1.0, 1.0], gates=[None, 0.5])
    reward(Samples([Prompt("x")] * 2, pixels)).values.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad[0].abs().sum() > 0
    assert pixels.grad[1].abs().sum() == 0


# ---- several rewards that count alike


def test_rewards_that_a_sum_confuses_are_told_apart_when_each_is_normalised():
    """Two binary rewards, groups of two: sums of (0, 1) and (0, 2) give GRPO the same advantages (lvlm 7.5)."""
    one, two = fixed("one", 0.0, 1.0, 0.0, 1.0), fixed("two", 0.0, 0.0, 0.0, 1.0)
    summed = grouped(WeightedReward([one, two], [1.0, 1.0])(NUMBERED, group=2).values, 2)
    assert_close(summed, torch.tensor([-0.7071, 0.7071] * 2), atol=2e-4, rtol=0)
    apart = WeightedReward([one, two], [1.0, 1.0], ["group", "group"])(NUMBERED, group=2).values
    assert_close(apart, torch.tensor([-0.7071, 0.7071, -1.4142, 1.4142]), atol=4e-4, rtol=0)
    advantages = grouped(apart, 2, "batch")
    assert_close(advantages, apart / (apart.std() + 1e-4))  # as its groups have mean 0, so has the batch


# ---- prompts that weigh rewards


def test_a_prompt_may_weigh_the_rewards_itself():
    prompts = [Prompt("x", {"weights": {"one": 0.6, "two": -0.8}}), Prompt("x"), Prompt("x", {"weights": {"two": 0}})]
    samples = Samples(prompts, ["0", "1", "2"])
    reward = WeightedReward([fixed("one", 1.0, 1.0, 1.0), fixed("two", 2, 2, 2)], [10.0, 1.0])
    assert_close(reward(samples).values, torch.tensor([6.0 - 1.6, 12.0, 10.0]))
