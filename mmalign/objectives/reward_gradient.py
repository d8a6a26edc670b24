"""What AlignProp, DRaFT, ReFL and DRTune share: sample, score, and follow the reward's gradient back into the sampler.

    L = shape(r(x_0)) + λ d,    d = mean_D (output_θ(x_t) - output_ref(x_t))²

They differ in the plan (which steps carry gradient) and in the shape. The drift d is none of the papers': measured on
the run's own samples at a random (t, noise), it holds back a model that would please the reward and forget all else.
"""

import torch
from torch import Tensor

from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Samples
from mmalign.samplers.gradient import Plan


def loss(shaped: Tensor, rewards: Tensor, penalty: Tensor) -> Loss:
    """shaped: what the method makes of the rewards; penalty: λ d; all `[B]`, or `[(1 + n) B]` with n re-noisings."""
    return Loss(shaped + penalty, {"reward": rewards.mean().detach(), "penalty": penalty.mean().detach()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, plan: Plan, drift: float) -> dict[str, Tensor]:
    """rewards and penalty of new samples, with gradient as `plan` says. drift: λ; at 0 d is not computed."""
    samples = parts.policy.differentiate(batch["prompt"], plan, rng)
    rewards = parts.reward(samples).values
    penalty = drift * _drift(parts, samples, rng) if drift > 0 else torch.zeros_like(rewards)
    return {"rewards": rewards, "penalty": penalty}


def _drift(parts: Parts, samples: Samples, rng: torch.Generator) -> Tensor:
    encoded = parts.policy.encode(samples.prompts, samples.media.detach(), rng)
    distance: Tensor = parts.policy.drift(encoded, parts.policy.draw(encoded, rng))
    return distance
