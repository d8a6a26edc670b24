"""AlignProp. Prabhudesai et al. 2023, arXiv:2310.03739; as in the authors' code (mihirp1998/AlignProp).

    L = c |R - r(x_0)|,    x_0 depends on θ through the sampler's steps b, ..., N-1
    b = int(z N / 50),  z ~ Normal(42, 5²),  drawn again until 1 <= b < N

R is a reward out of reach; without one L = -c r(x_0). Each batch draws its own b.

Where it differs:
1. The paper draws N - b ~ U(0, 50): `truncation: uniform`. The code's numbers are for N = 50; here they scale with N.
2. Steps before b run without gradient; the code computes it and drops it.
3. The paper samples with `sampling.eta` 0, the code with 1.
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.samplers import gradient
from mmalign.specs import Objective

Depth = Literal["normal", "uniform"] | int


def loss(
    rewards: Tensor, penalty: Tensor | None = None, *, target: float | None = None, coefficient: PositiveFloat = 0.01
) -> Loss:
    """target: R. coefficient: c."""
    distance = -rewards if target is None else (target - rewards).abs()
    return reward_gradient.shaped(coefficient * distance, rewards, penalty)


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, *, truncation: Depth = "normal", drift: NonNegativeFloat = 0.0
) -> dict[str, Tensor]:
    """truncation: how b is drawn, or a number of last steps. drift: λ of `reward_gradient`."""
    steps = parts.policy.sampling.steps
    k = truncation if isinstance(truncation, int) else steps - first_step(steps, truncation, rng)
    reward_gradient.check_depth("truncation", k, steps)
    return reward_gradient.terms(parts, batch, rng, gradient.last(steps, k), drift)


def first_step(steps: int, truncation: str, rng: torch.Generator) -> int:
    """b, the first step with gradient, in 1..steps-1."""
    if steps < 2:
        raise UserError("objective.truncation: a random one needs sampling.steps of 2 or more")
    b = 0
    while not 1 <= b < steps:
        z = 42 + 5 * torch.randn((), generator=rng) if truncation == "normal" else 50 * torch.rand((), generator=rng)
        b = int(z * steps / 50)
    return b


objective = Objective(loss, terms)
