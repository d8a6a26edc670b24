"""DiscoPOP, the log-ratio modulated loss. Lu et al. 2024, arXiv:2406.08414.

    L = -(1 - m) log σ(z) + m exp(-z),    z = β Δ,    m = σ(z / τ),    Δ as in `paired`

A loss that a search with a language model found: logistic for pairs that are behind, exponential for those ahead. It
is not convex: in between, at the reference too, it rises with z, by (1 - log 2) / (4 τ) - 3/4 at z = 0.
"""

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    *,
    beta: PositiveFloat = 0.05,
    temperature: PositiveFloat = 0.05,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. temperature: τ."""
    z = beta * (chosen_logratios - rejected_logratios)
    # Where m underflows to 0, exp(-z) may be infinite: the product would be NaN, so both go into one exponent.
    values = -(-z / temperature).sigmoid() * logsigmoid(z) + (logsigmoid(z / temperature) - z).exp()
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
