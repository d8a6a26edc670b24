"""GRPO done right. Liu et al. 2025, arXiv:2503.20783.

    A = r - mean of the group,    L = 1/T Σ_u [ -min(ρ A, clip(ρ, 1 ± ε) A) + β k3_u ]

This is `grpo` without the two divisions that favour some samples: by the deviation of the group, which favours prompts on
which all answers score alike, and by the own length, which lets long wrong answers off lightly. T is one number for all: the
most units that a sample can have (`sampling.max_new_tokens`, or `sampling.steps`).
"""

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from mmalign.objectives import grpo
from mmalign.parts import Parts
from mmalign.records import Experience
from mmalign.specs import Objective


def advantages(
    parts: Parts, experience: Experience, *, length: PositiveInt, beta: NonNegativeFloat = 0.0
) -> dict[str, Tensor]:
    """length: T."""
    return grpo.advantages(parts, experience, spread="none", length=length, beta=beta)


objective = Objective(grpo.loss, grpo.terms, advantages)
