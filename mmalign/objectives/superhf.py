"""SuperHF: supervised iterative learning from human feedback. Mukobi et al. 2023, arXiv:2310.16763.

    L = -ℓ + λ K,    ℓ as in `sft`,    K = mean over units of KL(r ‖ p)

on the best of several samples of the model's own: `collect: {samples_per_prompt: 16, keep: best}`. Without λ this is
RAFT. K, the divergence from the reference over everything that a unit could have been, keeps the model from collapsing.

Where it differs: the authors' code (openfeedback/superhf) averages K over prompt tokens too, and sums it over the rows of
a batch while it averages ℓ; here both are means.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.objectives import sft
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor, kl: Tensor, *, weight: NonNegativeFloat = 0.35) -> Loss:
    """log_probs: ℓ, kl: K, `[B]`. weight: λ."""
    supervised = sft.loss(log_probs)
    return Loss(supervised.values + weight * kl, {**supervised.metrics, "kl": kl.detach().mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """ℓ and K at one draw."""
    found = parts.policy.compared(*sft.drawn(parts, batch, rng))
    return {"log_probs": found.log_probs.mean(), "kl": found.divergence.mean()}


objective = Objective(loss, terms)
