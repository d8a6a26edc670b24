"""Dense DPO of RLHF-V, for corrected samples. Yu et al. 2023, arXiv:2312.00849.

    L = -log σ( β [ (ℓ_p(w) - ℓ_r(w)) - (ℓ_p(l) - ℓ_r(l)) ] )
    ℓ(y) = [ Σ_(unchanged) log p_u + γ Σ_(changed) log p_u ] / N,    N = |unchanged| + γ |changed|

A person corrects what is wrong in a sample: winner and loser differ in a few units u, and these count γ times. This is
`dpo` with `dense` γ and `units: mean`; with γ = 1 it is DPO of means.

Where it differs: these are the paper's choices; its script takes γ 1.1, β 0.1 and does not divide by N (`units: sum`).
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import dpo, paired
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Units
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.5) -> Loss:
    """chosen_logratios, rejected_logratios: ℓ_p - ℓ_r, `[B]`."""
    return dpo.loss(chosen_logratios, rejected_logratios, beta=beta)


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, *, dense: PositiveFloat = 5.0, units: Units = "mean"
) -> dict[str, Tensor]:
    """dense: γ. units: whether to divide by N."""
    return paired.terms(parts, batch, rng, dense=dense, units=units)


objective = Objective(loss, terms)
