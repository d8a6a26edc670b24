"""Odds ratio preference optimisation. Hong et al. 2024, arXiv:2403.07691.

    L = -ℓ_w - λ log σ( log odds_w - log odds_l ),    log odds = ℓ - log(1 - exp ℓ)

with ℓ the mean of log p over units, as in `unreferenced`. Odds are of probabilities, so that a surrogate of the
likelihood will not do: ORPO needs a model whose likelihoods are exact.
"""

import math

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides, unreferenced
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_log_probs: Tensor, rejected_log_probs: Tensor, *, weight: NonNegativeFloat = 0.1) -> Loss:
    """chosen_log_probs, rejected_log_probs: ℓ_w, ℓ_l, `[B]`, below 0. weight: λ."""
    values = -chosen_log_probs - weight * logsigmoid(log_odds(chosen_log_probs) - log_odds(rejected_log_probs))
    return sides.judged(values, chosen_log_probs, rejected_log_probs, 1.0, of="log_prob")


def log_odds(log_probs: Tensor) -> Tensor:
    """log p - log(1 - p), any shape."""
    return log_probs - log1mexp(log_probs)


def log1mexp(log_probs: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, any shape: near 0 through expm1, far from it through log1p."""
    below = log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps)
    near, far = below.clamp(min=-math.log(2)), below.clamp(max=-math.log(2))
    return torch.where(below > -math.log(2), (-near.expm1()).log(), (-far.exp()).log1p())


objective = Objective(loss, unreferenced.terms)
