"""Flow-GRPO. Liu et al. 2025, arXiv:2505.05470; clip range, β and its scale as in the authors' code.

    L = 1/n Σ_u [ -min(ρ A, clip(ρ, 1 ± ε) A) + β |Δs_u| KL_u ],    KL_u = mean_D (μ - μ_ref)² / (2 σ²),    ρ, A as in `grpo`

of steps x' ~ N(μ, σ²) that lower the noise level s by |Δs|, which on a flow is |Δt|. This is `grpo` for models that denoise,
with the divergence itself: of log-probabilities that are means over D dimensions k3 is near KL² / 2 + KL / D, next to nothing.

Where it differs: the paper's KL has no |Δs|, its code has; A is not clipped, and each process has a deviation of its own.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.objectives import grpo, rollouts, surrogate
from mmalign.parts import Batch, Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    divergence: Tensor | None = None,
    *,
    clip: NonNegativeFloat = 1e-4,
    beta: NonNegativeFloat = 0.04,
) -> Loss:
    """divergence: |Δs| KL, `[B, U]`, None where β is 0; others as in `grpo`. clip: ε."""
    found = surrogate.loss(log_probs - old_log_probs, advantages, mask, lengths, clip, clip)
    return found if divergence is None else surrogate.added(found, "kl", divergence, mask, lengths, beta)


def advantages(
    parts: Parts, experience: Experience, *, spread: maths.Spread = "batch", beta: NonNegativeFloat = 0.04
) -> dict[str, Tensor]:
    """As `grpo`, and, where β is above 0, μ_ref of every step, which takes as much memory as the samples' latents."""
    found = grpo.advantages(parts, experience, spread=spread)
    if beta == 0:
        return found
    with torch.no_grad(), parts.policy.reference():
        pieces = experience.rollout.pieces(experience.at_once)
        return {**found, "reference_means": torch.cat([parts.policy.replay_steps(some).means for some in pieces])}


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """The steps of today's weights, and how far they are from the reference's."""
    own = rollouts.own(batch)
    if "reference_means" not in own:
        return rollouts.terms(parts, batch, rng)
    steps = parts.policy.replay_steps(batch["rollout"])
    drifts = (steps.means - own.pop("reference_means")).square().flatten(2).mean(dim=2)
    return {"log_probs": steps.log_probs, "divergence": steps.falls * drifts / (2 * steps.stds**2), **own}


objective = Objective(loss, terms, advantages)
