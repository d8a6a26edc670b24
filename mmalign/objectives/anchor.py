"""The anchor of mDPO. Wang et al. 2024, arXiv:2406.11839.

    L = -log σ(β a - δ),    a as in `paired`

The winner must become likelier than the reference has it, whatever the loser does: a term to add to losses of the
difference alone (`weighted-sum`).
"""

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.1, delta: float = 0.0
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`; b is only reported. delta: δ."""
    return sides.judged(-logsigmoid(beta * chosen_logratios - delta), chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
