"""ReFL. Xu et al. 2023 (ImageReward), arXiv:2304.05977; as in the authors' code (zai-org/ImageReward).

    L = c relu(R - r(x0)),    x0 = the network's estimate of the clean sample at step m
    m ~ U{30, ..., 39} of N = 40: the last quarter of the steps

Only step m carries gradient, and the sampler ends there.

Where it differs:
1. The paper mixes in the pre-training loss; the code does not, nor do we (`drift` may take its place).
2. The code samples with DDPM and without guidance: `sampling: {steps: 40, guidance_scale: 1, eta: 1}`.
3. R = 2 suits ImageReward; a reward that never gets there is simply followed.
4. `window`: what a picture shows may be settled before the last quarter; then a step in the middle is what counts.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import relu

from mmalign.errors import UserError
from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.samplers import gradient
from mmalign.specs import Objective

Share = Annotated[float, Field(ge=0, le=1)]


def loss(
    rewards: Tensor, penalty: Tensor | None = None, *, target: float = 2.0, coefficient: PositiveFloat = 1e-3
) -> Loss:
    """target: R. coefficient: c."""
    return reward_gradient.shaped(coefficient * relu(target - rewards), rewards, penalty)


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    window: tuple[Share, Share] = (0.75, 1.0),
    drift: NonNegativeFloat = 0.0,
) -> dict[str, Tensor]:
    """window: from which share of the steps to which m is drawn. drift: λ of `reward_gradient`."""
    if not window[0] < window[1]:
        raise UserError(f"objective.window: must rise, not {window[0]:g} to {window[1]:g}")
    step = drawn_step(parts.policy.sampling.steps, window, rng)
    return reward_gradient.terms(parts, batch, rng, gradient.one(step), drift)


def drawn_step(steps: int, window: tuple[float, float], rng: torch.Generator) -> int:
    """m, uniform over the window's steps, of which there is always one."""
    first, end = int(window[0] * steps), int(window[1] * steps)
    return int(torch.randint(min(first, steps - 1), max(end, first + 1), (), generator=rng))


objective = Objective(loss, terms)
