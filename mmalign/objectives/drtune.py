"""DRTune. Wu et al. 2024 (Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models), arXiv:2405.00760.

    L = -r(x0),    x_t' = A_t x_t + B_t output_θ(sg(x_t)),    sg = stop gradient
    trained steps  s + j floor(N / K),  j = 0, ..., K-1,  s ~ U{0, ..., floor(N / K) - 1}
    x0 is read off at step N - m,  m ~ U{1, ..., floor(0.4 N)}

At every step the network's input is cut off, so that gradient reaches the weights along the affine sampler alone, and
early steps can be trained without a product of Jacobians. Steps that are not trained run without gradient.

Where it differs: there is no code by the authors; K = 3 and how s and m are drawn follow the port in
RuoyuWang-2077/FlowBP.
"""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import reward_gradient
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.samplers.gradient import Plan
from mmalign.specs import Objective


def loss(rewards: Tensor, penalty: Tensor) -> Loss:
    """rewards: `[B]`."""
    return reward_gradient.loss(-rewards, rewards, penalty)


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, *, k: PositiveInt = 3, drift: NonNegativeFloat = 0.0
) -> dict[str, Tensor]:
    """k: K, how many steps are trained. drift: λ of `reward_gradient`."""
    plan = spaced(parts.policy.sampling.steps, k, rng)
    return reward_gradient.terms(parts, batch, rng, plan, drift)


def spaced(steps: int, k: int, rng: torch.Generator) -> Plan:
    """Gradient at `k` equally spaced steps with a random start, without gradient to inputs, and a random early stop."""
    if k > steps:
        raise UserError(f"drtune: k is {k}, but sampling.steps is {steps}: k must be 1 to {steps}")
    stride = steps // k
    start = int(torch.randint(0, stride, (), generator=rng))
    early = int(torch.randint(1, max(1, int(0.4 * steps)) + 1, (), generator=rng))
    trained = frozenset(start + j * stride for j in range(k))
    return Plan(trained, detach_input=True, stop=steps - early)


objective = Objective(loss, terms)
