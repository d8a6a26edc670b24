"""ReFL. Xu et al. 2023 (ImageReward), arXiv:2304.05977; as in the authors' code (zai-org/ImageReward).

    L = c relu(R - r(x0)),    x0 = the network's estimate of the clean sample at step m
    m ~ U{30, ..., 39} of N = 40: the last quarter of the steps

Only step m carries gradient, and the sampler ends there.

Where it differs:
1. The paper mixes in the pre-training loss; the code does not, nor do we (`drift` may take its place).
2. The code samples with DDPM and without guidance: `sampling: {steps: 40, guidance_scale: 1, eta: 1}`.
3. R = 2 suits ImageReward; a reward that never gets there is simply followed.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import relu

from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.samplers import gradient
from mmalign.specs import Objective


def loss(
    rewards: Tensor, penalty: Tensor | None = None, *, target: float = 2.0, coefficient: PositiveFloat = 1e-3
) -> Loss:
    """target: R. coefficient: c."""
    return reward_gradient.shaped(coefficient * relu(target - rewards), rewards, penalty)


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, drift: NonNegativeFloat = 0.0) -> dict[str, Tensor]:
    """drift: λ of `reward_gradient`."""
    step = late_step(parts.policy.sampling.steps, rng)
    return reward_gradient.terms(parts, batch, rng, gradient.one(step), drift)


def late_step(steps: int, rng: torch.Generator) -> int:
    """m, uniform over the last quarter."""
    return int(torch.randint(3 * steps // 4, steps, (), generator=rng))


objective = Objective(loss, terms)
