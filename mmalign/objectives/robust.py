"""Robust DPO. Chowdhury et al. 2024, arXiv:2403.00409.

    L = [ -(1 - ε) log σ(β Δ) + ε log σ(-β Δ) ] / (1 - 2 ε),    Δ as in `paired`

If labels are flipped at a rate ε, this is on average DPO's loss on the true ones. Unlike `dpo` with `label_smoothing`
it has no lower bound: for large β Δ it falls like -ε β Δ / (1 - 2 ε).
"""

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
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.1,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. flip_rate: ε."""
    inside = beta * (chosen_logratios - rejected_logratios)
    values = (flip_rate * logsigmoid(-inside) - (1 - flip_rate) * logsigmoid(inside)) / (1 - 2 * flip_rate)
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
