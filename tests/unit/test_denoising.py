"""The denoising policy: samples depend on their seed alone, draws are shared, the reference is the base."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmalign import UserError, options
from mmalign.processes import PROCESSES, process_class
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.records import Samples
from mmalign.samplers import gradient as plans
from unit.toy import ToyModel, gradient, pairs, parts, paths, prompts, rng


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


def with_dropout(checkpointing: bool = False):
    """A toy whose adapter drops half of what it says in training mode, inside a base in evaluation mode."""
    made = parts(steps=3, checkpointing=checkpointing)
    network = made.policy.network.eval()
    network.adapter = nn.Sequential(network.adapter, nn.Dropout(0.5).train())
    return made


def modes(policy) -> list[bool]:
    return [module.training for module in policy.network.modules()]


def test_sampling_drops_nothing_and_gives_every_module_its_mode_back():
    policy = with_dropout().policy
    before = modes(policy)
    assert len(set(before)) == 2
    once = policy.sample(prompts(2), [0, 1]).media
    assert modes(policy) == before
    assert once.equal(policy.sample(prompts(2), [0, 1]).media)
    assert not once.requires_grad


def test_the_reference_drops_nothing_and_gives_every_module_its_mode_back():
    policy = with_dropout().policy
    before = modes(policy)
    with policy.reference():
        assert set(modes(policy)) == {False}
    assert modes(policy) == before


def test_training_keeps_its_mode():
    """Where gradient is wanted dropout works: two equal calls differ."""
    policy = with_dropout().policy
    one, other = (policy.differentiate(prompts(2), plans.last(3, 1), rng()).media for _ in range(2))
    assert not one.equal(other)


def test_checkpointing_repeats_the_same_dropout():
    found = []
    for checkpointing in (False, True):
        made = with_dropout(checkpointing)
        torch.manual_seed(3)
        media = made.policy.differentiate(prompts(2), plans.last(3, 2), rng()).media
        found.append(gradient(made, media.square().mean()))
    assert_close(*found, rtol=0, atol=1e-14)


def test_a_stream_decides_a_sample_with_gradient():
    policy = parts().policy
    one, same, other = (policy.differentiate(prompts(2), plans.last(6, 1), rng(seed)).media for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.allclose(other)


def test_each_text_is_encoded_once_and_stays_in_its_place():
    policy, asked = parts().policy, []
    condition = policy.model.condition
    policy.model.condition = lambda texts: asked.extend(texts) or condition(texts)
    mixed = [*prompts(3), *reversed(prompts(3))]
    found = policy.encode(mixed, [torch.rand(3, 3, 3)] * 6, rng()).condition["c"]
    assert asked == ["x", "xx", "xxx"]
    assert found.equal(condition([prompt.text for prompt in mixed])["c"])


def test_the_network_may_be_wrapped():
    """As an engine does for several processes: predictions go through the wrapper."""
    policy = parts().policy

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *inputs):
            self.calls += 1
            return self.module(*inputs)

    policy.network = Wrapper(policy.network)
    policy.sample(prompts(1), [0])
    assert policy.network.calls == 6


@pytest.mark.parametrize("kind", paths())
def test_log_likelihood_is_minus_half_the_mean_squared_error(kind):
    policy, batch = parts(kind).policy, pairs(3)
    rows = policy.encode(batch["prompt"], batch["chosen"], rng())
    draw = policy.draw(rows, rng(1))
    a, s = (c[:, None, None, None].double() for c in policy.model.path.coefficients(draw.t))
    x0, noise = rows.latents, draw.noise
    target = {"epsilon": noise, "v": a * noise - s * x0, "x0": x0, "flow": noise - x0}[kind]
    output = policy.model.predict(a * x0 + s * noise, draw.t, rows.condition)
    by_hand = -((output - target) ** 2).sum(dim=(1, 2, 3)) / x0[0].numel() / 2
    assert_close(policy.log_likelihood(rows, draw).values[:, 0], by_hand)


def test_drift_is_what_the_weights_moved():
    made, batch = parts(), pairs(3)
    policy = made.policy
    rows = policy.encode(batch["prompt"], batch["chosen"], rng())
    draw = policy.draw(rows, rng(1))
    x_t = policy.model.path.add_noise(rows.latents, draw.noise, draw.t)
    moved = policy.model.predict(x_t, draw.t, rows.condition)
    with policy.reference():
        moved = moved - policy.model.predict(x_t, draw.t, rows.condition)
    assert_close(policy.drift(rows, draw), moved.square().mean(dim=(1, 2, 3)))
    for weight in policy.network.adapter.parameters():
        weight.data.zero_()
    assert policy.drift(rows, draw).tolist() == [0, 0, 0]
    assert gradient(made, policy.drift(rows, draw).sum()).abs().max() == 0


def test_low_precision_gradient_survives_steps_without_gradient():
    """Casts that autocast made for the first steps carry no gradient and must not serve the last one."""
    policy, network = parts(steps=3).policy, nn.Conv2d(2, 2, 1)
    policy.model.predict = lambda x, t, condition: network(x).float()
    with torch.autocast("cpu", torch.bfloat16):
        media = policy.differentiate(prompts(2), plans.last(3, 1), rng()).media
    media.mean().backward()
    assert network.weight.grad.abs().max() > 0


@pytest.mark.parametrize("given", [{"steps": 0}, {"guidance_scale": -1.0}, {"eta": 1.5}, {"step": 10}])
def test_sampling_options_are_checked_before_anything_loads(given):
    ((key, _),) = options.check_callable(DenoisingPolicy.Sampling, given)
    assert key == next(iter(given))


def test_an_unknown_process_is_named_with_the_nearest():
    assert process_class("denoising") is DenoisingPolicy
    with pytest.raises(UserError, match=r"'denoizing', did you mean 'denoising'\?"):
        process_class("denoizing")
    assert all(process_class(name).offers for name in PROCESSES)
