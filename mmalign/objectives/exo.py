"""Efficient exact optimisation, on pairs. Ji et al. 2024, arXiv:2402.00856.

    L = q log(q / (1 - ε)) + (1 - q) log((1 - q) / ε),    q = σ(β Δ),    Δ as in `paired`

This is KL(q ‖ label), the reverse of what `dpo` with `label_smoothing` ε minimises; it is 0 where q = 1 - ε.
"""

import math
from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    label_smoothing: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. label_smoothing: ε, which must be above 0."""
    inside = beta * (chosen_logratios - rejected_logratios)
    ahead = inside.sigmoid() * (logsigmoid(inside) - math.log1p(-label_smoothing))
    behind = (-inside).sigmoid() * (logsigmoid(-inside) - math.log(label_smoothing))
    return sides.judged(ahead + behind, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
