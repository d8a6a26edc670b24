"""T-REG: token-level reward regularisation. Zhou et al. 2024, arXiv:2412.02685. From notes, not the authors' code.

    L = -log σ(β Δ) + α w (R_w + R_l),    w = σ(β b - β a) without gradient,    a, b, Δ as in `paired`
    R(y) = -β Σ_u ρ_u log p_u,    ρ_u = σ(c_u) - ½,    c as in `contrast`

The reference itself tells which units are good (ρ > 0): they are made likelier, in the loser too. Pairs that are
already well ordered (w near 0) are left alone.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.objectives import contrast, dpo
from mmalign.parts import Batch, Parts
from mmalign.records import LogProbs, Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    credits: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 0.25,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b. credits: Σ_u ρ_u log p_u of both sides together. All `[B]`."""
    preference = dpo.loss(chosen_logratios, rejected_logratios, beta=beta)
    weight = (beta * (rejected_logratios - chosen_logratios)).sigmoid().detach()
    regularisation = -alpha * weight * beta * credits
    metrics = {**preference.metrics, "regularisation": regularisation.detach().mean()}
    return Loss(preference.values + regularisation, metrics)


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    better: contrast.Template = contrast.BETTER,
    worse: contrast.Template = contrast.WORSE,
) -> dict[str, Tensor]:
    """better, worse: what the reference is asked, with `{prompt}` in it."""
    policy, reference, c = contrast.terms(parts, batch, rng, better, worse)
    chosen, rejected = policy.minus(reference).sum().chunk(2)
    winners, losers = credit(policy, c).chunk(2)
    return {"chosen_logratios": chosen, "rejected_logratios": rejected, "credits": winners + losers}


def credit(log_probs: LogProbs, c: Tensor) -> Tensor:
    """Σ_u ρ_u log p_u, `[B]`."""
    return log_probs.weighted(c.sigmoid() - 0.5).sum()


objective = Objective(loss, terms)
