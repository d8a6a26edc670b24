"""What AlignProp, DRaFT, ReFL and DRTune share: sample, score, and follow the reward's gradient back into the sampler.

    L = shape(r(x_0)) + λ d,    d = mean_D (output_θ(x_t) - output_ref(x_t))²

They differ in the plan (which steps carry gradient) and in the shape. The drift d is none of the papers': measured on
the run's own samples at a random (t, noise), it holds back a model that would please the reward and forget all else.
"""

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Samples
from mmalign.samplers.gradient import Plan


def loss(rewards: Tensor, penalty: Tensor | None = None) -> Loss:
    """The plainest shape: -r."""
    return shaped(-rewards, rewards, penalty)


def shaped(values: Tensor, rewards: Tensor, penalty: Tensor | None) -> Loss:
    """values: what the method makes of `rewards`; penalty: λ d; all `[B]`, or `[(1 + n) B]` with n re-noisings."""
    metrics = {"reward": rewards.mean().detach()}
    if penalty is None:
        return Loss(values, metrics)
    return Loss(values + penalty, {**metrics, "penalty": penalty.mean().detach()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, plan: Plan, drift: float = 0.0) -> dict[str, Tensor]:
    """rewards (and penalty, if `drift`, which is λ, is above 0) of new samples, with gradient as `plan` says."""
    samples = parts.policy.differentiate(batch["prompt"], plan, rng)
    rewards = parts.reward(samples).values
    return {"rewards": rewards, "penalty": drift * _drift(parts, samples, rng)} if drift > 0 else {"rewards": rewards}


def check_depth(option: str, k: int, steps: int) -> None:
    """Refuse more steps with gradient than the sampler has."""
    if not 1 <= k <= steps:
        raise UserError(f"objective.{option}: gradient through {k} steps, but sampling.steps is {steps}")


def _drift(parts: Parts, samples: Samples, rng: torch.Generator) -> Tensor:
    encoded = parts.policy.encode(samples.prompts, samples.media.detach(), rng)
    distance: Tensor = parts.policy.drift(encoded, parts.policy.draw(encoded, rng))
    return distance
