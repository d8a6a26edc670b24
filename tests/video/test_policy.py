"""The adapter inside its process: what objectives see of a real video pipeline."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import likelihoods, perturbed
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import alignprop, dpo, draft
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy
from mmalign.records import Prompt, Samples, Scores
from mmalign.samplers.gradient import Plan, last
from mmalign_video import tiny
from mmalign_video.models import VideoModel

from .conftest import FAMILIES, TEXTS, build

Adapted = Callable[[str], VideoModel]
families = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = [Prompt(text) for text in TEXTS]
MEDIA = [torch.zeros(tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE), torch.ones(tiny.FRAMES + 2, 3, 40, 30)]
SHAPE = (2, tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE)


def policy_of(model: VideoModel, eta: float = 0.0, checkpointing: bool = False) -> DenoisingPolicy:
    return DenoisingPolicy(model, DenoisingPolicy.Sampling(steps=3, guidance_scale=2.0, eta=eta), checkpointing)


@families
def test_before_training_policy_and_reference_agree_and_dpo_is_log_2(
    family: str, folder: Callable[[str], Path]
) -> None:
    ours, reference = likelihoods(policy_of(build(folder(family))), PROMPTS, MEDIA)
    assert ours.values.shape == (2, 1)
    assert torch.equal(ours.values, reference.values)
    assert (ours.values < 0).all()
    ratios = ours.minus(reference).sum()
    assert dpo.loss(ratios[:1], ratios[1:], beta=500.0).values.item() == pytest.approx(math.log(2), abs=1e-6)


@families
def test_the_likelihood_carries_gradient_to_what_trains_alone(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    ours, reference = likelihoods(policy_of(model), PROMPTS, MEDIA)
    assert not torch.allclose(ours.values, reference.values)
    assert not reference.values.requires_grad
    ours.values.sum().backward()
    touched = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    # Of a pair of experts only those that were asked learn.
    assert touched <= set(model.state_dict()) if family == "wan-experts" else touched == set(model.state_dict())
    assert touched
    model.network.zero_grad(set_to_none=True)


@families
def test_a_replay_equals_its_rollout(family: str, adapted: Adapted) -> None:
    policy = policy_of(adapted(family), eta=0.7)
    rollout = policy.rollout(PROMPTS, [1, 2])
    with torch.no_grad():
        replayed = policy.replay(rollout)
    assert rollout.samples.media.shape == SHAPE
    assert rollout.samples.frame_rate == adapted(family).family.native_frame_rate
    assert replayed.values.shape[1] == len(rollout.units[0]["steps"]) >= 2
    assert (replayed.minus(rollout.log_probs).values.exp() - 1).abs().max() < 1e-5
    alone = policy.sample(PROMPTS[1:], [2])
    torch.testing.assert_close(rollout.samples.media[1:], alone.media, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["wan", "wan-experts", "cogvideox"])
def test_a_replay_carries_gradient(family: str, adapted: Adapted) -> None:
    """Along a whole rollout both experts are asked."""
    model = adapted(family)
    policy = policy_of(model, eta=0.7)
    policy.replay(policy.rollout(PROMPTS, [1, 2])).sum().sum().backward()
    touched = {name for name, weight in model.network.named_parameters() if weight.grad is not None}
    assert touched == set(model.state_dict())
    model.network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox", "hunyuan"])
def test_checkpointing_changes_no_gradient(family: str, adapted: Adapted) -> None:
    """Steps and decoder are computed again in the backward pass."""
    model = adapted(family)

    def gradients(checkpointing: bool, plan: Plan) -> list[Tensor]:
        model.network.zero_grad(set_to_none=True)
        policy = policy_of(model, checkpointing=checkpointing)
        samples = policy.differentiate(PROMPTS, plan, torch.Generator().manual_seed(0))
        assert samples.media.shape == SHAPE
        samples.media.square().mean().backward()
        return [weight.grad for weight in model.weights.trainable().values() if weight.grad is not None]

    plain, saved = gradients(False, last(3, 1)), gradients(True, last(3, 1))
    assert len(plain) == len(model.state_dict())
    assert max(float(grad.abs().max()) for grad in plain) > 0
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    model.network.zero_grad(set_to_none=True)


def test_with_gradient_only_the_beginning_is_decoded(folder: Callable[[str], Path]) -> None:
    """Wan's decoder never looks ahead, so its beginning is that of the whole video."""
    model = build(folder("wan"), gradient_frames=2)
    policy = policy_of(model)
    part = policy.differentiate(PROMPTS, last(3, 1), torch.Generator().manual_seed(0)).media
    with torch.no_grad():
        whole = policy.differentiate(PROMPTS, last(3, 1), torch.Generator().manual_seed(0)).media
    assert part.shape[1] == 5 < whole.shape[1] == tiny.FRAMES
    assert part.requires_grad
    torch.testing.assert_close(part.detach(), whole[:, :5], atol=1e-6, rtol=1e-6)


def test_a_drift_needs_whole_videos(folder: Callable[[str], Path]) -> None:
    model = build(folder("wan"), gradient_frames=1)
    parts = Parts(policy_of(model), draft.objective, [], lambda samples: Scores(samples.media.mean(dim=(1, 2, 3, 4))))
    with pytest.raises(UserError, match=r"model\.gradient_frames: .* objective\.drift needs all of them"):
        draft.terms(parts, {"prompt": PROMPTS}, torch.Generator().manual_seed(0), drift=0.1)


@pytest.mark.parametrize("objective", [draft, alignprop])
def test_the_gradient_of_a_reward_of_the_first_frame_reaches_every_weight(
    objective: Any, folder: Callable[[str], Path]
) -> None:
    """As VADER trains: through the decoder of one latent frame and the last step of the sampler."""
    model = perturbed(build(folder("wan"), gradient_frames=1))
    asked: list[Samples] = []

    def brightness(samples: Samples) -> Scores:
        asked.append(samples)
        return Scores(samples.media.mean(dim=(1, 2, 3, 4)))

    parts = Parts(policy_of(model, eta=0.7, checkpointing=True), objective.objective, [], brightness)
    found = objective.objective.loss(**objective.terms(parts, {"prompt": PROMPTS}, torch.Generator().manual_seed(0)))
    found.values.mean().backward()
    assert asked[0].media.shape == (2, 1, 3, tiny.SIDE, tiny.SIDE)
    assert all(weight.grad is not None for weight in model.weights.trainable().values())
    assert any(weight.grad.abs().max() > 0 for weight in model.weights.trainable().values())


@pytest.mark.parametrize("family", ["wan", "cogvideox"])
def test_guidance_by_a_reward_raises_it_and_weight_0_is_plain_sampling(family: str, adapted: Adapted) -> None:
    policy = policy_of(adapted(family))

    def redness(samples: Samples) -> Scores:
        return Scores(samples.media[:, :, 0].mean(dim=(1, 2, 3)))

    plain = policy.sample(PROMPTS, [1, 2])
    assert torch.equal(policy.guided(PROMPTS, [1, 2], redness, 0.0).media, plain.media)
    led = policy.guided(PROMPTS, [1, 2], redness, 50.0)
    assert (redness(led).values > redness(plain).values).all()
