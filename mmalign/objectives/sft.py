"""Supervised fine-tuning: make given samples likelier.

    L = -log p(x)

On a denoising model log p is the surrogate -½ mean_D (output_θ(x_t) - target)² at a random (t, noise), so that L is
half of the usual denoising error.
"""

import torch
from torch import Tensor

from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor) -> Loss:
    """log_probs: log p, `[B]`."""
    return Loss(-log_probs, {"log_prob": log_probs.mean().detach()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """One sample a prompt, one draw a sample."""
    encoded = parts.policy.encode(batch["prompt"], batch["sample"], rng)
    draw = parts.policy.draw(encoded, rng)
    return {"log_probs": parts.policy.log_likelihood(encoded, draw).sum()}


objective = Objective(loss, terms)
