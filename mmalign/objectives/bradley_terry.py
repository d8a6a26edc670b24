"""Bradley-Terry reward modelling. Bradley & Terry 1952; margins as in Llama 2 (arXiv:2307.09288), scaling as in
HelpSteer2-Preference (arXiv:2410.01257).

    L = Σ_k -s logσ( y_k d_k - m ) + λ (r_1k + r_2k)²,    d = r_1 - r_2

y_k is 1 where the first sample is better in dimension k and -1 where the second is. Ties and dimensions without a label
are left out; `undecided` is the share of pairs of which nothing is left (`btt` learns from ties).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import scored
from mmalign.objectives.labels import by_head
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    first: Tensor,
    second: Tensor,
    preferences: Tensor,
    strengths: Tensor,
    dimensions: Sequence[str],
    *,
    margin: NonNegativeFloat = 0.0,
    strength: Literal["ignored", "margin", "scale"] = "ignored",
    centering: NonNegativeFloat = 0.0,
) -> Loss:
    """first, second: r_1, r_2, preferences: y, 0 or NaN, strengths: how much better, all `[B, K]`. centering: λ.

    strength: what the rows' strength is: nothing; a factor of `margin`, which is m; or s.
    """
    decided, gaps = preferences.abs() == 1, first - second
    m = margin * (strengths if strength == "margin" else 1)
    s = strengths if strength == "scale" else 1
    each = -s * logsigmoid(preferences.nan_to_num() * gaps - m) + centering * (first + second) ** 2
    found = scored.judged(torch.where(decided, each, 0).sum(dim=1), gaps, preferences, dimensions)
    return Loss(found.values, {**found.metrics, "undecided": (~decided.any(dim=1)).float().mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """Scores and preferences; a strength that is not told is 1."""
    found = scored.pairs(parts, batch, rng)
    return {**found, "strengths": by_head(batch["strengths"], found["dimensions"], found["first"], missing=1.0)}


def misfits(*, strength: str, margin: float) -> Iterator[tuple[str, str]]:
    """A factor of nothing."""
    if strength == "margin" and margin == 0:
        yield "strength", "a factor of `margin`, which is 0, changes nothing: set margin above 0, or leave strength out"


objective = Objective(loss, terms, misfits=misfits)
