"""VPL: variational preference learning. Poddar et al. 2024, arXiv:2408.10075.

    L = -log σ( y (r_z(x_1) - r_z(x_2)) ) + λ KL( q_a ‖ N(0, I) ),    z ~ q_a = N(μ_a, σ_a²),    r_z = Σ_k softmax(z)_k r_k
    KL = ½ Σ_k ( σ² + μ² - 1 - log σ² )

This is `pal` where an annotator is a distribution: of whom little is known, z stays near 0, which is a stranger's, and far
from sure. λ → ∞ makes all annotators strangers. For the bound of the paper λ is 1 / how many pairs an annotator labelled.

Where it differs:
1. q_a has parameters of its own for everybody whom `model.heads.annotators` names; the authors have a network guess it from
   pairs of the annotator. So an unknown annotator is a stranger until trained.
2. The KL has its ½, the noise is not scaled down by 1000, and λ is constant, where the authors' code differs in all three.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.objectives import tastes
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    first: Tensor,
    second: Tensor,
    z: Tensor,
    log_variance: Tensor,
    preferences: Tensor,
    noise: Tensor,
    *,
    weight: NonNegativeFloat = 0.01,
) -> Loss:
    """first, second: r_k, z: μ, log_variance: log σ², noise: standard normal, `[B, K]`. preferences: y, `[B, 1]`. weight: λ."""
    found = tastes.loss(first, second, z + noise * (log_variance / 2).exp(), preferences)
    kl = divergence(z, log_variance)
    spread = (log_variance.detach() / 2).exp().mean()
    return Loss(found.values + weight * kl, {**found.metrics, "kl": kl.detach().mean(), "spread": spread})


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)), `[B]`, of `[B, K]`."""
    return (log_variance.exp() + mean**2 - 1 - log_variance).sum(dim=1) / 2


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """As `tastes`, and one draw a row."""
    found = tastes.terms(parts, batch, rng)
    return {**found, "noise": torch.randn(found["z"].shape, generator=rng).to(found["z"])}


objective = Objective(loss, terms)
