"""Simple preference optimisation. Meng et al. 2024, arXiv:2405.14734.

    L = -log σ( β (ℓ_w - ℓ_l) - γ ),    ℓ: the mean of log p over units, as in `unreferenced`

Without a reference: `dpo` of likelihoods, with a margin.
"""

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides, unreferenced
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_log_probs: Tensor, rejected_log_probs: Tensor, *, beta: PositiveFloat = 2.0, margin: NonNegativeFloat = 1.0
) -> Loss:
    """chosen_log_probs, rejected_log_probs: ℓ_w, ℓ_l, `[B]`. margin: γ."""
    values = -logsigmoid(beta * (chosen_log_probs - rejected_log_probs) - margin)
    return sides.judged(values, chosen_log_probs, rejected_log_probs, beta, of="log_prob")


objective = Objective(loss, unreferenced.terms)
