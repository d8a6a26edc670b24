"""DiffusionNFT, negative-aware fine-tuning. Zheng et al. 2025, arXiv:2509.16117.

    L = ( r ‖v⁺ - v‖² + (1 - r) ‖v⁻ - v‖² ) / β,    v⁺ = (1 - β) v_old + β v_θ,    v⁻ = (1 + β) v_old - β v_θ
    r = ½ + ½ clip(A / c, ±1),    A = (score - m) / (s + 1e-4),    v: what a noised sample should predict

v_old drew the samples, with any sampler; m and s are mean and deviation of the scores of the prompt's samples (`rivals`), or of
the micro-batch. Good samples pull v_θ, bad ones push it: at v_old ∇L = 2 (2r - 1) (v_old - v). By the models' own errors,

    ‖v^± - v‖² = (1 ∓ β) ‖v_old - v‖² ± β ‖v_θ - v‖² ∓ β (1 ∓ β) ‖v_θ - v_old‖²

Where it differs:
1. v_old is the reference: with `rounds:`, the model of the round before, which drew the samples. The code lets it follow v_θ.
2. All times weigh alike, as in the paper; the code divides each error of x0 by its size. Norms are means over dimensions.
3. The code's penalty of 1e-4 for leaving the untrained model is left out.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.maths import advantages
from mmalign.objectives import rwr, sft
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    reference_log_probs: Tensor,
    divergence: Tensor,
    optimality: Tensor,
    *,
    beta: PositiveFloat = 1.0,
) -> Loss:
    """log_probs: -½ ‖v_θ - v‖², reference_log_probs: -½ ‖v_old - v‖², divergence: ½ ‖v_θ - v_old‖², optimality: r, `[B]`."""
    ours, old, apart = -2 * log_probs, -2 * reference_log_probs, 2 * divergence
    positive = (1 - beta) * old + beta * ours - beta * (1 - beta) * apart
    negative = (1 + beta) * old - beta * ours + beta * (1 + beta) * apart
    values = (optimality * positive + (1 - optimality) * negative) / beta
    return Loss(values, {"optimality": optimality.mean(), "drift": apart.detach().mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, limit: PositiveFloat = 5.0) -> dict[str, Tensor]:
    """Both models and their difference at one draw. limit: c."""
    found = parts.policy.compared(*sft.drawn(parts, batch, rng))
    scores, rivals = rwr.scored(batch, found.log_probs.values)
    return {
        "log_probs": found.log_probs.mean(),
        "reference_log_probs": found.reference_log_probs.mean(),
        "divergence": found.divergence.mean(),
        "optimality": 0.5 + 0.5 * (advantages.among(scores, rivals) / limit).clamp(-1, 1),
    }


objective = Objective(loss, terms)
