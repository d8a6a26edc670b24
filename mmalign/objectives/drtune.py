"""DRTune. Wu et al. 2024 (Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models), arXiv:2405.00760.

    L = -r(x0),    x_t' = A_t x_t + B_t output_θ(sg(x_t)),    sg = stop gradient
    trained steps  s + j floor(N / K),  j = 0, ..., K-1,  s ~ U{0, ..., floor(N / K) - 1}
    x0 is read off at the m-th step from the end,  m ~ U{1, ..., floor(0.4 N)}

At every step the network's input is cut off, so that gradient reaches the weights along the affine sampler alone, and
early steps can be trained without a product of Jacobians. Steps that are not trained run without gradient.

Where it differs: there is no code by the authors; K = 3 and how s and m are drawn follow the port in
RuoyuWang-2077/FlowBP.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.samplers import gradient
from mmalign.specs import Objective


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    k: int = 3,
    early_stop: bool = True,
    drift: NonNegativeFloat = 0.0,
) -> dict[str, Tensor]:
    """k: K, how many steps are trained. early_stop: draw m; otherwise m = 1. drift: λ of `reward_gradient`."""
    steps = parts.policy.sampling.steps
    reward_gradient.check_depth("k", k, steps)
    m = int(torch.randint(1, max(1, int(0.4 * steps)) + 1, (), generator=rng)) if early_stop else 1
    s = int(torch.randint(0, min(steps // k, steps - m + 1), (), generator=rng))  # not behind where x0 is read off
    return reward_gradient.terms(parts, batch, rng, gradient.spaced(steps, k, m - 1, s), drift)


objective = Objective(reward_gradient.loss, terms)
