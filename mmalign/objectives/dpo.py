"""Direct preference optimisation. Rafailov et al. 2023, arXiv:2305.18290.

    L = -(1 - ε) log σ( β Δ - γ ) - ε log σ( γ - β Δ ),    Δ, a, b as in `paired`

ε > 0 is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"): labels may be wrong, and the loss is
lowest at β Δ - γ = log((1 - ε) / ε). γ > 0 is a margin by which the winner must be better.
"""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat
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
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
    margin: NonNegativeFloat = 0.0,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. label_smoothing: ε. margin: γ."""
    inside = beta * (chosen_logratios - rejected_logratios) - margin
    values = -(1 - label_smoothing) * logsigmoid(inside) - label_smoothing * logsigmoid(-inside)
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


terms = paired.terms
objective = Objective(loss, terms)
