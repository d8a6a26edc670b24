"""Several reward models as one that is careful where they disagree. Coste et al. 2023, arXiv:2310.02743.

    mean            r = μ                 min             r = min_m r_m
    mean-std        r = μ - λ σ           mean-variance   r = μ - λ σ²

μ, σ: mean and deviation of the members' scores r_m of a sample, σ over all M members (not M - 1), so that it is 0 for one.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from mmalign.records import Samples, Scores
from mmalign.rewards.trained import RewardModel

By = Literal["mean", "min", "mean-std", "mean-variance"]

_COMBINED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": lambda scores, penalty: scores.mean(dim=0),
    "min": lambda scores, penalty: scores.amin(dim=0),
    "mean-std": lambda scores, penalty: scores.mean(dim=0) - penalty * scores.std(dim=0, correction=0),
    "mean-variance": lambda scores, penalty: scores.mean(dim=0) - penalty * scores.var(dim=0, correction=0),
}


class Ensemble:
    """Reward models that differ, for example by their seed, combined. `dimensions` holds their mean and deviation.

    paths: their `model` folders. by: how they are combined. penalty: λ; 0.5 is usual to choose among samples and 0.1 for
        training on them.
    """

    def __init__(
        self, paths: Annotated[list[str], Field(min_length=1)], by: By = "mean-std", penalty: NonNegativeFloat = 0.5
    ):
        self.members: Sequence[RewardModel] = [RewardModel(path) for path in paths]
        self.by = by
        self.penalty = penalty

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        for member in self.members:
            member.to(device)
        return self

    def __call__(self, samples: Samples) -> Scores:
        """`[B]`."""
        scores = torch.stack([member(samples).values for member in self.members])
        spread = {"mean": scores.mean(dim=0), "std": scores.std(dim=0, correction=0)}
        return Scores(combined(scores, self.by, self.penalty), spread)


def combined(scores: Tensor, by: By, penalty: float = 0.5) -> Tensor:
    """`[B]` of the members' scores `[M, B]`."""
    return _COMBINED[by](scores, penalty)
