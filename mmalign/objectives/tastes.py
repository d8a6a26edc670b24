"""Where the arguments of objectives on annotators who disagree come from. Heads are K prototypes of taste, and

    r_a(x) = Σ_k softmax(z_a)_k r_k(x)

is what annotator a gives sample x, a mixture of what the prototypes give it. For a stranger z is 0 and r_a the mean of the
heads, which is also what the reward `reward-model` gives; the reward `annotator` gives r_a.
"""

from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import bradley_terry, scored
from mmalign.objectives.labels import by_head
from mmalign.parts import Batch, Parts
from mmalign.records import EVERY, Loss


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """What each head gives both samples, and each row's annotator: z and its log-variance; all `[B, K]`. The preference
    `[B, 1]` is of the whole. Raises UserError where nobody is named, or where preferences are of dimensions.
    """
    if not all(batch["annotator"]):
        raise UserError("objective: a row names no `annotator`, so that nothing tells whose preference it is")
    if not all(EVERY in row for row in batch["preferences"]):
        raise UserError(
            "objective: annotators prefer whole samples: rows need `preference`, not `preferences` by dimension"
        )
    first, second = scored.both(parts, batch, rng)
    z, log_variance = parts.policy.tastes(batch["annotator"])
    preferences = by_head(batch["preferences"], (EVERY,), first)
    return {"first": first, "second": second, "z": z, "log_variance": log_variance, "preferences": preferences}


def loss(first: Tensor, second: Tensor, z: Tensor, preferences: Tensor) -> Loss:
    """Bradley-Terry of r_a. first, second: r_k of both samples, z: `[B, K]`. preferences: `[B, 1]`."""
    weights = z.softmax(dim=1)
    one, other = ((weights * rewards).sum(dim=1, keepdim=True) for rewards in (first, second))
    found = bradley_terry.loss(one, other, preferences, torch.ones_like(preferences), ("score",))
    return Loss(found.values, {**found.metrics, "largest_share": weights.detach().amax(dim=1).mean()})
