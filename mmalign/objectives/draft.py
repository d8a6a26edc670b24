"""DRaFT-K and DRaFT-LV. Clark et al. 2023, arXiv:2309.17400.

    L = -r(x_0),    x_0 depends on θ through the sampler's last K steps

K = N is DRaFT. DRaFT-LV: x_0 is noised n times to the last step's time and denoised with gradient, and L is the mean
over the n + 1 samples; no gradient flows into the x_0 that was noised.

Where it differs: LV is defined for K = 1; here the n re-noisings may go with any K.
"""

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.samplers import gradient
from mmalign.specs import Objective


def loss(rewards: Tensor, penalty: Tensor) -> Loss:
    """rewards: `[(1 + n) B]`."""
    return reward_gradient.loss(-rewards, rewards, penalty)


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    k: PositiveInt = 1,
    renoise: NonNegativeInt = 0,
    drift: NonNegativeFloat = 0.0,
) -> dict[str, Tensor]:
    """k: K. renoise: n; the authors' LV has 2. drift: λ of `reward_gradient`."""
    plan = gradient.last(parts.policy.sampling.steps, k, renoise)
    return reward_gradient.terms(parts, batch, rng, plan, drift)


objective = Objective(loss, terms)
