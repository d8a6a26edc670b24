"""Bradley-Terry with ties. Rao & Kupper 1967; as in VideoReward, Liu et al. 2025, arXiv:2501.13918.

    P(1 > 2) = σ(d - ℓ),    P(2 > 1) = σ(-d - ℓ),    P(tie) = (θ² - 1) σ(d - ℓ) σ(-d - ℓ),    d = r_1 - r_2,  ℓ = log θ

    L = Σ_k -log P_k(what was said of dimension k)

The three add up to 1. The larger θ, the more often samples tie; at θ = 1 they never do.

Where it differs from the authors' code: a dimension without a label adds nothing, and pairs are averaged over all.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import scored
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    first: Tensor,
    second: Tensor,
    preferences: Tensor,
    dimensions: Sequence[str],
    *,
    theta: Annotated[float, Field(gt=1)] = 5.0,
) -> Loss:
    """first, second: r_1, r_2, preferences: 1, -1, 0 for a tie, NaN for no label, all `[B, K]`."""
    gaps, log_theta = first - second, math.log(theta)
    decided = -logsigmoid(preferences.nan_to_num() * gaps - log_theta)
    tied = -math.log(theta**2 - 1) - logsigmoid(gaps - log_theta) - logsigmoid(-gaps - log_theta)
    each = torch.where(preferences == 0, tied, torch.where(preferences.isnan(), 0, decided))
    return scored.judged(each.sum(dim=1), gaps, preferences, dimensions)


objective = Objective(loss, scored.pairs)
