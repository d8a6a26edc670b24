"""DRaFT-K and DRaFT-LV. Clark et al. 2023, arXiv:2309.17400.

    L = -r(x_0),    x_0 depends on θ through the sampler's last K steps

K = N is DRaFT. DRaFT-LV (K = 1): x_0 is noised n times to the last step's time and denoised with gradient, and L is the
mean over the n + 1 samples; no gradient flows into the x_0 that was noised.
"""

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.samplers import gradient
from mmalign.specs import Objective


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    k: int = 1,
    renoise: NonNegativeInt = 0,
    drift: NonNegativeFloat = 0.0,
) -> dict[str, Tensor]:
    """k: K. renoise: n, usually 2. drift: λ of `reward_gradient`."""
    steps = parts.policy.sampling.steps
    reward_gradient.check_depth("k", k, steps)
    if renoise and k > 1:
        raise UserError(f"objective.renoise: goes with k 1, not {k}: set one of them back")
    return reward_gradient.terms(parts, batch, rng, gradient.last(steps, k, renoise), drift)


objective = Objective(reward_gradient.loss, terms)
