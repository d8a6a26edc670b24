"""Supervised fine-tuning: make given samples likelier.

    L = -1/U Σ_u log p(x_u)

over the units u of a sample: the tokens of a response (the usual loss of a language model), or one draw of a time.
On a denoising model log p is the surrogate -½ mean_D (output_θ(x_t) - target)² at a random (t, noise), so that L is
half of the usual denoising error.

On the best of the model's own samples (`collect: {keep: best}`) this is RAFT (Dong et al. 2023, arXiv:2304.06767), or
best-of-n distillation. On prompts that say how good the answer is (`template` of the data, or `unpaired` with `good` and
`bad`) it is conditional training, such as chain of hindsight (Liu et al. 2023, arXiv:2302.02676). On the best samples of
prompts that weigh two rewards (data `directions`) it is directional preference alignment (Wang et al. 2024, arXiv:2402.18571).
"""

from typing import Any

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
    return {"log_probs": parts.policy.log_likelihood(*drawn(parts, batch, rng)).mean()}


def drawn(parts: Parts, batch: Batch, rng: torch.Generator) -> tuple[Any, Any]:
    """The rows as the policy sees them, and one draw of each."""
    rows = parts.policy.encode(batch["prompt"], batch["sample"], rng)
    return rows, parts.policy.draw(rows, rng)


objective = Objective(loss, terms)
