"""Where the arguments of objectives on pairs without a reference come from: one forward of the policy.

ℓ_w, ℓ_l: the mean of log p over the units of the winner and of the loser
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, dense: PositiveFloat = 1.0) -> dict[str, Tensor]:
    """ℓ_w and ℓ_l, `[B]`. dense: how many times a unit counts in which the sides differ."""
    rows, draw = sides.encoded(parts, batch, rng)
    log_probs = sides.dense(parts.policy.log_likelihood(rows, draw), parts.policy, rows, dense)
    chosen, rejected = log_probs.mean().chunk(2)
    return {"chosen_log_probs": chosen, "rejected_log_probs": rejected}
