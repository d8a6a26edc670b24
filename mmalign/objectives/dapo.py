"""DAPO. Yu et al. 2025, arXiv:2503.14476.

    L = 1/n Σ_u -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A),    n: units a sample of the buffer has on average

This is `grpo` where likelier units may grow further than less likely ones may shrink (ε_high above ε_low), and where each unit
counts alike, not each sample. The paper's penalty of answers that are too long is the reward `length`.

Where it differs:
1. n is that of the buffer, not of an update. They are the same where a buffer is one update.
2. Groups whose rewards are all equal are counted, not sampled again.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.objectives import grpo
from mmalign.parts import Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    *,
    clip_low: NonNegativeFloat = 0.2,
    clip_high: NonNegativeFloat = 0.28,
) -> Loss:
    """As `grpo`, without a reference. clip_low, clip_high: ε."""
    return grpo.loss(log_probs, old_log_probs, advantages, mask, lengths, clip_low=clip_low, clip_high=clip_high)


def advantages(parts: Parts, experience: Experience) -> dict[str, Tensor]:
    """Those of the group."""
    return grpo.advantages(parts, experience, spread="group", length="mean")


objective = Objective(loss, grpo.terms, advantages)
