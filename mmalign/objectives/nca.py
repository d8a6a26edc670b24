"""Noise contrastive alignment, on pairs. Chen et al. 2024, arXiv:2402.05369.

    L = -log σ(β a) - ½ log σ(-β a) - ½ log σ(-β b),    a, b as in `paired`

Where `dpo` sees the difference alone, this also holds the winner's likelihood up.
"""

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.01) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`."""
    chosen, rejected = beta * chosen_logratios, beta * rejected_logratios
    values = -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
