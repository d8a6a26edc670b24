"""Binary classifier optimisation, on pairs. Jung et al. 2024, arXiv:2404.04656.

    L = -log σ(β a - δ) - log σ(δ - β b),    δ = mean of all β a and β b, without gradient,    a, b as in `paired`

A classifier of winners against losers, whose logit is the reward less its average.

Where it differs: δ is the micro-batch's mean, not a running one. `shift: false` drops it, as TRL does.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.01, shift: bool = True
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. shift: whether δ is the mean, or 0."""
    chosen, rejected = beta * chosen_logratios, beta * rejected_logratios
    delta = torch.cat([chosen, rejected]).mean().detach() if shift else 0.0
    values = -logsigmoid(chosen - delta) - logsigmoid(delta - rejected)
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
