"""Self-play preference optimisation, with hard labels. Wu et al. 2024, arXiv:2405.00675.

    L = (a - 1 / (2 β))² + (b + 1 / (2 β))²,    a, b as in `paired`

β is 1 / η of the paper, so that tiny values are meant.
"""

from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 1e-3) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`."""
    target = 1 / (2 * beta)
    values = (chosen_logratios - target) ** 2 + (rejected_logratios + target) ** 2
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
