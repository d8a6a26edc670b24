"""GRPO-Guard. Wang et al. 2025, arXiv:2510.22319; clip range and weights as in public code (verl-omni).

    log ρ' = σ ( log ρ + mean_D (μ - μ_old)² / (2 σ²) ),    ρ = p / p_old of a step x' ~ N(μ, σ²)
    L = 1/n Σ_u -min(ρ' A, clip(ρ', 1 ± ε) A) / |Δs_u|

This is `grpo` for models that denoise, with ratios that a clip range fits. There log ρ is below 0 on average, by what is added
here, so that samples to be made likelier would be clipped too late; and the less noise a step draws, the more log ρ moves, which
σ undoes: what is left is mean_D z (μ - μ_old) for the drawn noise z. Steps that lower the noise level s by more weigh less.

Where it differs: Δs is taken on any path; of a flow it is the paper's Δt.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.objectives import grpo, rollouts, surrogate
from mmalign.parts import Batch, Parts
from mmalign.processes.policy import evaluating
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    drifts: Tensor,
    stds: Tensor,
    falls: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    *,
    clip: NonNegativeFloat = 2e-6,
) -> Loss:
    """drifts: mean_D (μ - μ_old)², stds: σ, falls: |Δs|, `[B, U]`; others as in `grpo`. clip: ε."""
    log_ratios = stds * (log_probs - old_log_probs + drifts / (2 * stds**2))
    return surrogate.loss(log_ratios, advantages / falls, mask, lengths, clip, clip)


def advantages(parts: Parts, experience: Experience, *, spread: maths.Spread = "group") -> dict[str, Tensor]:
    """As `grpo`, and μ_old of every step, which takes as much memory as the samples' latents and one more forward."""
    pieces = experience.rollout.pieces(experience.at_once)
    with torch.no_grad(), evaluating(parts.policy.network):
        means = torch.cat([parts.policy.replay_steps(some).means for some in pieces])
    return {**grpo.advantages(parts, experience, spread=spread), "old_means": means}


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """The steps of today's weights, and by how much they are off the old ones."""
    steps, own = parts.policy.replay_steps(batch["rollout"]), rollouts.own(batch)
    drifts = (steps.means - own.pop("old_means")).square().flatten(2).mean(dim=2)
    return {"log_probs": steps.log_probs, "drifts": drifts, "stds": steps.stds, "falls": steps.falls, **own}


objective = Objective(loss, terms, advantages)
