"""Hinge loss. SLiC-HF, Zhao et al. 2023, arXiv:2305.10425; on log-ratios as in RSO, Liu et al. 2023, arXiv:2309.06657.

    L = max(0, 1 - β Δ),    Δ as in `paired`

A pair that is ahead by 1 / β is left alone.
"""

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import relu

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.05) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`."""
    values = relu(1 - beta * (chosen_logratios - rejected_logratios))
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
