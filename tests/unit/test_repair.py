"""Repair: what may stay stays to the last bit of its latents, the rest is drawn anew, and no score falls."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.records import Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.samplers.repair import Repair, of_latents
from unit import toy
from unit.toy import SHAPE

SIDE = SHAPE[-1]
LEFT = torch.tensor([[1.0, 0.0, 0.0]]).expand(SIDE, SIDE)


class Judge:
    """Brightness of what does not stay, which is all but the `places`. seen: what it was asked of."""

    def __init__(self, places: Tensor):
        self.places = places
        self.seen: list[Samples] = []

    def __call__(self, samples: Samples) -> Scores:
        self.seen.append(samples)
        values = (samples.media.mean(dim=1) * (1 - self.places)).mean(dim=(1, 2))
        return Scores(values, places=self.places.expand(len(samples), -1, -1))


def policy_of(kind: str, eta: float = 0.0):
    policy = toy.parts(kind, steps=5).policy
    policy.sampling = replace(policy.sampling, eta=eta)
    return policy


@pytest.mark.parametrize("kind", ["flow", "v", "epsilon"])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_what_is_kept_ends_as_it_was_and_the_rest_does_not(kind, eta):
    policy, prompts = policy_of(kind, eta), toy.prompts(2)
    _, known = policy.drawn(prompts, [1, 2])
    keep = of_latents(LEFT.expand(2, -1, -1), SHAPE)
    samples, latents = policy.redrawn(prompts, [1, 2], [3, 4], known, keep)
    assert_close(latents[..., 0], known[..., 0])
    assert ((latents - known)[..., 1:].abs() > 1e-3).any(dim=1).all()
    assert samples.seeds == [3, 4]


@pytest.mark.parametrize("kind", ["flow", "v"])
def test_with_everything_kept_nothing_changes_and_with_nothing_kept_it_is_another_sample(kind):
    policy, prompts = policy_of(kind), toy.prompts(1)
    plain, known = policy.drawn(prompts, [1])
    assert torch.equal(plain.media, policy.sample(prompts, [1]).media)
    assert_close(policy.redrawn(prompts, [1], [3], known, torch.ones(1))[1], known)
    assert_close(policy.redrawn(prompts, [1], [3], known, torch.zeros(1))[0].media, policy.sample(prompts, [3]).media)


def test_a_latent_stays_only_where_all_its_pixels_do():
    places = torch.ones(1, 4, 4)
    places[0, 0, 3] = 0.5
    assert of_latents(places, (2, 5, 2, 2)).tolist() == [[[[[1.0, 0.0], [1.0, 1.0]]]]]


def test_no_score_falls_and_more_rounds_go_on_from_the_best():
    policy, prompts, judge = policy_of("flow"), toy.prompts(3), Judge(LEFT)
    plain = judge(policy.sample(prompts, [1, 2, 3])).values
    once = Repair(enough=9.0, candidates=3)(policy, judge, prompts, [1, 2, 3])
    twice = Repair(enough=9.0, rounds=2, candidates=3)(policy, judge, prompts, [1, 2, 3])
    assert once.seeds == [1, 2, 3]
    assert once.prompts == prompts
    assert (judge(once).values >= plain).all()
    assert (judge(once).values > plain).any()
    assert (judge(twice).values >= judge(once).values).all()
    kept = policy.sample(prompts, [1, 2, 3]).media
    assert_close(once.media[..., 0], kept[..., 0])


def test_what_is_good_enough_is_the_very_sample_and_nothing_more_is_drawn():
    policy, prompts, judge = policy_of("flow"), toy.prompts(2), Judge(LEFT)
    assert torch.equal(
        Repair(enough=0.0)(policy, judge, prompts, [1, 2]).media[1:], policy.sample(prompts[1:], [2]).media
    )
    assert [len(samples) for samples in judge.seen] == [1, 1]


def test_rewards_that_do_not_tell_what_may_stay_are_refused():
    with pytest.raises(UserError, match="none of these tells"):
        Repair()(policy_of("flow"), toy.reward, toy.prompts(1), [1])


def test_of_several_rewards_what_all_would_keep_stays():
    whole = CheckedReward("whole", lambda samples: Scores(torch.zeros(2), places=torch.ones(2, SIDE, SIDE)))
    left = CheckedReward("left", Judge(LEFT))
    mute = CheckedReward("mute", lambda samples: torch.zeros(2))
    found = WeightedReward([whole, left, mute], [1.0, 1.0, 1.0]).measured(policy_of("v").sample(toy.prompts(2), [1, 2]))
    assert torch.equal(found.places, LEFT.expand(2, -1, -1))
