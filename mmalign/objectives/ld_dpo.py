"""Length-desensitised DPO. Liu et al. 2024, arXiv:2409.06411.

    L = -log σ(β Δ),    Δ as in `paired`, with
    ℓ(y) = Σ_(u ≤ n) log p_u + α Σ_(u > n) log p_u,    n: how many units the shorter side has

of both models: what only the longer side has room for counts α times, so that length alone wins less. α = 1 is DPO.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmalign.objectives import dpo, sides
from mmalign.parts import Batch, Parts
from mmalign.records import LogProbs
from mmalign.specs import Objective


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, *, alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
) -> dict[str, Tensor]:
    """alpha: α."""
    policy, reference = sides.both(parts.policy, *sides.encoded(parts, batch, rng))
    chosen, rejected = shortened(policy.minus(reference), alpha).sum().chunk(2)
    return {"chosen_logratios": chosen, "rejected_logratios": rejected}


def shortened(log_probs: LogProbs, alpha: float) -> LogProbs:
    """Units `[2B, U]` beyond the length of the pair's shorter side count α times."""
    place = (log_probs.mask > 0).cumsum(dim=1)
    winners, losers = place[:, -1:].chunk(2)
    shorter = torch.minimum(winners, losers).repeat(2, 1)
    return log_probs.weighted(torch.where(place > shorter, alpha, 1.0).to(log_probs.mask))


objective = Objective(dpo.loss, terms)
