"""The adapter inside its process: what objectives see of a real pipeline."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pipelines import likelihoods

from mmalign.processes.denoising import DenoisingPolicy
from mmalign.records import Prompt
from mmalign.samplers.gradient import Plan, last
from mmalign_diffusion.models import DiffusersModel

from .conftest import FAMILIES, RESOLUTION, build

Adapted = Callable[[str], DiffusersModel]
families = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = [Prompt("a red circle"), Prompt("a blue square")]
MEDIA = [torch.zeros(3, RESOLUTION, RESOLUTION), torch.ones(3, 40, 30)]


def policy_of(model: DiffusersModel, checkpointing: bool = False) -> DenoisingPolicy:
    return DenoisingPolicy(model, DenoisingPolicy.Sampling(steps=3, guidance_scale=2.0), checkpointing)


@families
def test_before_training_policy_and_reference_agree_exactly(family: str, folder: Callable[[str], Path]) -> None:
    ours, reference = likelihoods(policy_of(build(folder(family))), PROMPTS, MEDIA)
    assert ours.values.shape == (2, 1)
    assert torch.equal(ours.values, reference.values)
    assert (ours.values < 0).all()


@families
def test_the_likelihood_carries_gradient_to_what_trains_alone(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    ours, reference = likelihoods(policy_of(model), PROMPTS, MEDIA)
    assert not torch.allclose(ours.values, reference.values)
    assert not reference.values.requires_grad
    ours.values.sum().backward()
    touched = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert touched == set(model.state_dict())
    model.network.zero_grad(set_to_none=True)


@families
def test_samples_are_pictures_and_depend_on_their_seed_alone(family: str, adapted: Adapted) -> None:
    policy = policy_of(adapted(family))
    both, alone = policy.sample(PROMPTS, [1, 2]), policy.sample(PROMPTS[1:], [2])
    assert both.media.shape == (2, 3, RESOLUTION, RESOLUTION)
    torch.testing.assert_close(both.media[1:], alone.media, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both.media[1], policy.sample(PROMPTS[1:], [3]).media[0])


@families
def test_a_replay_equals_its_rollout_and_carries_gradient(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    policy = DenoisingPolicy(model, DenoisingPolicy.Sampling(steps=3, guidance_scale=2.0, eta=0.7))
    rollout = policy.rollout(PROMPTS, [1, 2])
    replayed = policy.replay(rollout)
    assert rollout.samples.media.equal(policy.sample(PROMPTS, [1, 2]).media)
    assert replayed.values.shape[1] == len(rollout.units[0]["steps"]) >= 2
    assert (replayed.minus(rollout.log_probs).values.exp() - 1).abs().max() < 1e-5
    assert rollout.units[0]["latents"].dtype == torch.float32
    alone = policy.replay(policy.part(rollout, slice(1, 2))[1:])
    torch.testing.assert_close(alone.values, replayed.values[1:, 1:2], atol=1e-4, rtol=1e-4)
    replayed.sum().sum().backward()
    touched = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert touched == set(model.state_dict())
    model.network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_checkpointing_changes_no_gradient(family: str, adapted: Adapted) -> None:
    model = adapted(family)

    def gradients(checkpointing: bool, plan: Plan) -> list[torch.Tensor]:
        model.network.zero_grad(set_to_none=True)
        samples = policy_of(model, checkpointing).differentiate(PROMPTS, plan, torch.Generator().manual_seed(0))
        samples.media.square().mean().backward()
        return [weight.grad for weight in model.weights.trainable().values() if weight.grad is not None]

    plain, saved = gradients(False, last(3, 2)), gradients(True, last(3, 2))
    assert len(plain) == len(model.state_dict())
    assert max(float(grad.abs().max()) for grad in plain) > 0
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    model.network.zero_grad(set_to_none=True)
