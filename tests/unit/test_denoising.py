"""The denoising policy: samples depend on their seed alone, draws are shared, the reference is the base."""

import pytest
import torch
from torch.testing import assert_close
from unit.toy import ToyModel, pairs, parts, paths, prompts, rng

from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.records import Samples


@pytest.mark.parametrize("kind", paths())
def test_the_make_up_of_a_batch_changes_no_sample(kind):
    policy = parts(kind).policy
    together = policy.sample(prompts(4), [7, 8, 9, 10]).media
    alone = policy.sample(prompts(4)[2:3], [9]).media
    assert_close(together[2:3], alone)


def test_stochastic_samples_depend_on_their_seed_alone_too():
    policy = DenoisingPolicy(ToyModel(paths()["epsilon"]), Sampling(4, 2.0, eta=1.0))
    together = policy.sample(prompts(3), [1, 2, 3]).media
    assert_close(together[1:2], policy.sample(prompts(3)[1:2], [2]).media)
    assert not together[0].allclose(policy.sample(prompts(3)[:1], [4]).media[0])


def test_guidance_of_one_is_the_conditional_model():
    """One forward a step of B, and no unconditional half."""
    policy = parts(steps=3, guidance_scale=1.0).policy
    policy.sample(prompts(2), [0, 1])
    assert [len(x) for x in policy.network.inputs] == [2, 2, 2]
    guided = parts(steps=3, guidance_scale=2.0).policy
    guided.sample(prompts(2), [0, 1])
    assert [len(x) for x in guided.network.inputs] == [4, 4, 4]


def test_both_sides_of_a_pair_share_their_draw():
    policy, batch = parts().policy, pairs(3)
    rows = policy.encode([*batch["prompt"]] * 2, [*batch["chosen"], *batch["rejected"]], rng())
    draw = policy.draw(rows, rng(), copies=2)
    assert draw.t[:3].equal(draw.t[3:])
    assert draw.noise[:3].equal(draw.noise[3:])


def test_the_reference_is_the_base_bitwise_and_gives_the_policy_back():
    policy = parts().policy
    changed = policy.sample(prompts(2), [0, 1]).media
    with policy.reference():
        reference = policy.sample(prompts(2), [0, 1]).media
    policy.network.on = False
    assert reference.equal(policy.sample(prompts(2), [0, 1]).media)
    policy.network.on = True
    assert policy.sample(prompts(2), [0, 1]).media.equal(changed)
    assert not reference.equal(changed)


def test_the_reference_comes_back_after_an_error():
    policy = parts().policy
    policy.network.train()
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert policy.network.on
    assert policy.network.training


def test_log_likelihood_is_one_unit_and_never_positive():
    policy, batch = parts().policy, pairs(3)
    rows = policy.encode(batch["prompt"], batch["chosen"], rng())
    found = policy.log_likelihood(rows, policy.draw(rows, rng()))
    assert found.values.shape == found.mask.shape == (3, 1)
    assert (found.values <= 0).all()


def test_samples_are_as_many_as_prompts():
    with pytest.raises(ValueError, match="2 prompts but 3 samples"):
        Samples(prompts(2), torch.zeros(3, 3, 2, 2))
