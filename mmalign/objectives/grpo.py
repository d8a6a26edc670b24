"""Group relative policy optimisation. Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300.

    A = (r - mean of the group) / (deviation of the group + 1e-4)
    L = 1/n Σ_u [ -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A) + β k3_u ],    ρ = p / p_old of unit u

k3 estimates KL(p ‖ r). A group is the samples of one prompt; one whose rewards are all equal has A = 0.

Where it differs:
1. β is 0 unless told otherwise, as in TRL: the reference is then never asked.
2. `spread: batch` divides by the deviation of the whole buffer instead (Flow-GRPO), `none` by nothing (Dr.GRPO).
3. Trained at one buffer an update with one pass, ρ is 1 throughout and nothing is clipped.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import penalty, rollouts, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    reference_log_probs: Tensor | None = None,
    *,
    clip_low: NonNegativeFloat = 0.2,
    clip_high: NonNegativeFloat = 0.2,
    beta: NonNegativeFloat = 0.0,
    estimator: kl.Estimator = "k3",
) -> Loss:
    """log_probs, old_log_probs, reference_log_probs, advantages, mask: `[B, U]`. lengths: n, `[B]`. clip_low, clip_high: ε."""
    found = surrogate.loss(log_probs - old_log_probs, advantages, mask, lengths, clip_low, clip_high)
    return surrogate.regularised(found, log_probs, reference_log_probs, mask, lengths, beta, estimator)


def advantages(
    parts: Parts,
    experience: Experience,
    *,
    spread: maths.Spread = "group",
    length: rollouts.Length = "own",
    beta: NonNegativeFloat = 0.0,
) -> dict[str, Tensor]:
    """spread: what differences from the group's mean are divided by. beta: above 0, the reference is asked too."""
    found = maths.grouped(experience.scores.values, experience.group, spread)
    return rollouts.prepared(experience, found, length) | penalty.reference(parts, experience, beta)


terms = rollouts.terms
objective = Objective(loss, terms, advantages)
