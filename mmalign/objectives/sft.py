"""Supervised fine-tuning: make given samples likelier.

    L = -1/U Σ_u log p(x_u)

over the units u of a sample: the tokens of a response (the usual loss of a language model), or one draw of a time.
On a denoising model log p is the surrogate -½ mean_D (output_θ(x_t) - target)² at a random (t, noise), so that L is
half of the usual denoising error.
"""

import torch
from torch import Tensor

from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor) -> Loss:
    """log_probs: log p, averaged over units, `[B]`."""
    return Loss(-log_probs, {"log_prob": log_probs.mean().detach()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """One sample a prompt, one draw a sample."""
    encoded = parts.policy.encode(batch["prompt"], batch["sample"], rng)
    draw = parts.policy.draw(encoded, rng)
    return {"log_probs": parts.policy.log_likelihood(encoded, draw).mean()}


objective = Objective(loss, terms)
