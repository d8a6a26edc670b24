"""Group sequence policy optimisation. Zheng et al. 2025, arXiv:2507.18071.

    L = -min(s A, clip(s, 1 - ε_low, 1 + ε_high) A) + β KL,    s = exp( 1/U Σ_u log ρ_u )

This is `grpo` with one ratio a sample, the geometric mean of its units', so that a sample is clipped whole. It moves less than
those of units: the ε are small.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import grpo, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, LogProbs, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    reference_log_probs: Tensor | None = None,
    *,
    clip_low: NonNegativeFloat = 3e-4,
    clip_high: NonNegativeFloat = 4e-4,
    beta: NonNegativeFloat = 0.0,
    estimator: kl.Estimator = "k3",
) -> Loss:
    """As `grpo`."""
    log_ratios = LogProbs(log_probs - old_log_probs, mask).mean()[:, None].expand_as(mask)
    found = surrogate.loss(log_ratios, advantages, mask, lengths, clip_low, clip_high)
    return surrogate.regularised(found, log_probs, reference_log_probs, mask, lengths, beta, estimator)


def advantages(
    parts: Parts, experience: Experience, *, spread: maths.Spread = "group", beta: NonNegativeFloat = 0.0
) -> dict[str, Tensor]:
    """As `grpo`: the mean over units of what is the same for all of them is that of the sample."""
    return grpo.advantages(parts, experience, spread=spread, length="own", beta=beta)


objective = Objective(loss, grpo.terms, advantages)
