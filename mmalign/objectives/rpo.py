"""Regularised preference optimisation: DPO with a supervised term. Liu et al. 2024, arXiv:2405.16436.

    L = -log σ(β Δ) - η m_w,    Δ as in `paired`,  m_w: the mean of log p_w over units

The supervised term keeps the winner likely, which holds back over-optimisation (and is what Iterative RPO adds, Pang et
al. 2024, arXiv:2404.19733, with η = 1). It is a mean over a sample's units: with a sum, η would be smaller by the length.
"""

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.objectives import dpo, paired, sft
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    log_probs: Tensor,
    *,
    beta: PositiveFloat = 0.01,
    eta: NonNegativeFloat = 0.005,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. log_probs: m_w, `[B]`. eta: η."""
    preference, supervised = dpo.loss(chosen_logratios, rejected_logratios, beta=beta), sft.loss(log_probs)
    return Loss(preference.values + eta * supervised.values, {**preference.metrics, **supervised.metrics})


objective = Objective(loss, paired.supervised_terms)
