"""A reward of texts that a generator draws from: what is drawn is scored for the prompt that was asked."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign.rewards import generated
from mmalign.rewards.generated import Generated
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit import toy

ASKED = [Prompt("cat"), Prompt("a dog"), Prompt("x")]
SAID = ["a grey cat that sleeps", "a dog", " "]


def bright(samples: Samples) -> torch.Tensor:
    return samples.media.mean(dim=(1, 2, 3))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reward around the toy. Options of its own are given to the call."""
    policy = toy.parts("flow", steps=3).policy
    monkeypatch.setattr(generated, "policy_of", lambda *given: policy)

    def make(**options: Any) -> Generated:
        found = Generated({"type": "toy"}, [{"type": "length", "most": 9}], **options)
        found.reward = WeightedReward([CheckedReward("bright", bright)], [2.0])
        return found

    return make


def test_a_text_scores_what_the_generator_makes_of_it(made: Any) -> None:
    reward = made()
    found = reward(Samples(ASKED, SAID))
    drawn = [reward.policy.sample([Prompt(text)], [0]) for text in SAID[:2]]
    assert_close(found.values[:2], torch.cat([2 * bright(one) for one in drawn]))
    assert_close(found.dimensions["bright"][:2], found.values[:2] / 2)
    assert found.values[2].isnan()


def test_draws_are_averaged_and_batches_change_nothing(made: Any) -> None:
    reward, samples = made(draws=2), Samples(ASKED[:2], SAID[:2])
    each = [2 * bright(reward.policy.sample([Prompt(text) for text in SAID[:2]], [s, s])) for s in (0, 1)]
    assert_close(reward(samples).values, (each[0] + each[1]) / 2)
    assert_close(made(draws=2, batch_size=1)(samples).values, reward(samples).values)


def test_the_sample_is_judged_by_what_was_asked_not_by_its_rewriting(made: Any) -> None:
    asked: list[str] = []

    def listening(samples: Samples) -> torch.Tensor:
        asked.extend(samples.texts)
        return bright(samples)

    reward = made()
    reward.reward = WeightedReward([CheckedReward("listening", listening)], [1.0])
    reward(Samples(ASKED, SAID))
    assert asked == ["cat", "a dog", "x"]


def test_nothing_to_score_is_no_mistake_but_no_reward_is(made: Any) -> None:
    assert made()(Samples([], [])).values.shape == (0,)
    with pytest.raises(UserError, match="name at least one"):
        Generated({"type": "toy"}, [])
    with pytest.raises(UserError, match=r"rewards\.0: missing `type`"):
        Generated({"type": "toy"}, [{"weight": 1.0}])
