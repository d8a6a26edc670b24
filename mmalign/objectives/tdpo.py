"""Token-level DPO. Zeng et al. 2024, arXiv:2404.11999; as in the authors' code.

    1  L = -log σ( β [ Δ - (K_l - K_w) ] )
    2  L = -log σ( β [ Δ - α (K_l - sg(K_w)) ] ),    sg = stop gradient
    K = Σ_u KL(r ‖ p) at each unit,    Δ as in `paired`

The policy must win the pair without drifting further from the reference on the loser than on the winner. K is the
divergence over everything that a unit could have been.

Where it differs: on a denoising model a unit is one draw, whose K is ½ mean_D (output_θ - output_ref)².
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    chosen_kl: Tensor,
    rejected_kl: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 0.5,
    version: Literal[1, 2] = 2,
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b. chosen_kl, rejected_kl: K. All `[B]`. alpha: α of version 2."""
    drift = {1: rejected_kl - chosen_kl, 2: alpha * (rejected_kl - chosen_kl.detach())}[version]
    values = -logsigmoid(beta * (chosen_logratios - rejected_logratios - drift))
    found = sides.judged(values, chosen_logratios, rejected_logratios, beta)
    kl = {"chosen_kl": chosen_kl.detach().mean(), "rejected_kl": rejected_kl.detach().mean()}
    return Loss(found.values, {**found.metrics, **kl})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Log-ratios and K of both sides at one draw."""
    found = parts.policy.compared(*sides.encoded(parts, batch, rng))
    a, b = found.log_probs.minus(found.reference_log_probs).sum().chunk(2)
    chosen, rejected = found.divergence.sum().chunk(2)
    return {"chosen_logratios": a, "rejected_logratios": b, "chosen_kl": chosen, "rejected_kl": rejected}


objective = Objective(loss, terms)
