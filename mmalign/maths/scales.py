"""What a pair is worth: s multiplies the log-ratios, so that a loss of β a and β b sees β s.

In `ipo` and `sppo` β also stands alone; there s gives the target of β s and weighs the pair with s². Means are over the
micro-batch, where the papers keep running ones: objectives remember nothing, so that a resumed run is the same run.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.errors import UserError

Scaled = tuple[Tensor, Tensor]
"""s, `[B]` or one for all, without gradient, and the indices of the pairs that count."""


@dataclass(frozen=True)
class ByStrength:
    """MM-DPO. Zhang et al. 2025 (MM-RLHF), arXiv:2502.10391.

        s = 1 + w (1 - exp(-k max(0, δ))),    δ: the row's `strength`, how much better the winner is

    w, k: how far and how fast β grows. s stays below 1 + w.
    """

    by: Literal["strength"]
    w: NonNegativeFloat = 0.5
    k: NonNegativeFloat = 0.5

    def __call__(self, gaps: Tensor, strength: Tensor | None, rng: torch.Generator) -> Scaled:
        """gaps: Δ, strength: δ, `[B]`, both without gradient."""
        if strength is None:
            raise UserError(
                "objective.scale: the rows do not tell by how much the winner is better (column 'strength')"
            )
        return 1 - self.w * torch.expm1(-self.k * strength.clamp(min=0)), torch.arange(len(gaps))


@dataclass(frozen=True)
class ByGap:
    """β-DPO. Wu et al. 2024, arXiv:2407.08639.

        keep (1 - ρ) B pairs, drawn without replacement by exp(-½ ((Δ - μ) / σ)²);    μ, σ: mean and deviation of Δ
        s = max(1e-3, 1 + α (mean of the kept Δ - μ))

    alpha: α, by how much β follows the gap. drop: ρ. What the paper takes is unverified (0.6 and 0.2), so neither has a
    default. Where it differs: Δ is not multiplied by β, as in MM-RLHF's copy; B should be 8 or more.
    """

    by: Literal["gap"]
    alpha: NonNegativeFloat
    drop: Annotated[float, Field(ge=0, lt=1)]

    def __call__(self, gaps: Tensor, strength: Tensor | None, rng: torch.Generator) -> Scaled:
        """gaps: Δ, `[B]`, without gradient."""
        deviations = (gaps - gaps.mean()) / gaps.std(correction=0).clamp(min=1e-12)
        usual = torch.exp(-0.5 * deviations**2).clamp(min=1e-12).cpu()
        count = max(1, round((1 - self.drop) * len(gaps)))
        kept = torch.multinomial(usual, count, generator=rng).sort().values
        return self.scale(gaps[kept].mean(), gaps.mean()), kept

    def scale(self, kept: Tensor, mean: Tensor) -> Tensor:
        """s, for the mean gap of the kept pairs and that of all."""
        return (1 + self.alpha * (kept - mean)).clamp(min=1e-3)


@dataclass(frozen=True)
class ByGradient:
    """The auto-β of SimpleTuner's Flow-DPO. Goes with `beta: 1`.

        s = min(S, log(1 / g - 1) / mean |Δ|)

    so that DPO's gradient weight σ(-s |Δ|) is g for an average pair.

    target: g. most: S, which holds at the reference, where no pair is ahead yet.
    """

    by: Literal["gradient"]
    most: PositiveFloat
    target: Annotated[float, Field(gt=0, lt=0.5)] = 0.2

    def __call__(self, gaps: Tensor, strength: Tensor | None, rng: torch.Generator) -> Scaled:
        """gaps: Δ, `[B]`, without gradient."""
        return (math.log(1 / self.target - 1) / gaps.abs().mean()).clamp(max=self.most), torch.arange(len(gaps))


Scale = Annotated[ByStrength | ByGap | ByGradient, Field(discriminator="by")]
