"""Contrastive preference optimisation. Xu et al. 2024, arXiv:2401.08417.

    L = -log σ( β (ℓ_w - ℓ_l) ) - α m_w,    ℓ: the sum of log p over units,  m_w: the winner's mean

`dpo` with a reference to which all samples are alike, and a supervised term (`sft`) that stands in for it.

Where it differs: the supervised term is the mean over a sample's units, so that α means the same at every length.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_log_probs: Tensor,
    rejected_log_probs: Tensor,
    log_probs: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 1.0,
) -> Loss:
    """chosen_log_probs, rejected_log_probs: ℓ_w, ℓ_l, `[B]`. log_probs: m_w, `[B]`. alpha: α."""
    values = -logsigmoid(beta * (chosen_log_probs - rejected_log_probs)) - alpha * log_probs
    return sides.judged(values, chosen_log_probs, rejected_log_probs, beta, of="log_prob")


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, dense: PositiveFloat = 1.0) -> dict[str, Tensor]:
    """One forward of the policy. dense: how many times a unit counts in ℓ in which the sides differ."""
    rows, draw = sides.encoded(parts, batch, rng)
    policy = parts.policy.log_likelihood(rows, draw)
    chosen, rejected = sides.dense(policy, parts.policy, rows, dense).sum().chunk(2)
    return {"chosen_log_probs": chosen, "rejected_log_probs": rejected, "log_probs": policy.mean().chunk(2)[0]}


objective = Objective(loss, terms)
