"""Regression of a reward on ratings, as in HelpSteer2, Wang et al. 2024, arXiv:2406.08673.

    L = Σ_k (r_k - s_k)²

over the dimensions k in which a sample is rated s_k; those without a rating are left out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.objectives.labels import by_head
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(scores: Tensor, ratings: Tensor, dimensions: Sequence[str]) -> Loss:
    """scores: r, ratings: s, NaN where there is none, both `[B, K]`. `error` is the mean of |r - s|."""
    errors = torch.where(ratings.isnan(), 0, scores - ratings.nan_to_num())
    distances = (scores - ratings).detach().abs()
    metrics = {"error": distances.nanmean()}
    for k, name in enumerate(dimensions if len(dimensions) > 1 else ()):
        metrics[f"error/{name}"] = distances[:, k].nanmean()
    return Loss((errors**2).sum(dim=1), metrics)


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """Scores and ratings by head."""
    encoded = parts.policy.encode(batch["prompt"], batch["sample"])
    scores = parts.policy.scores(parts.policy.noised(encoded, rng))
    names = parts.policy.heads.names
    return {"scores": scores, "ratings": by_head(batch["ratings"], names, scores), "dimensions": names}


objective = Objective(loss, terms)
