"""REINFORCE leave-one-out. Ahmadian et al. 2024, arXiv:2402.14740; with the ratio of TRL.

    A = r' - mean of r' of the others of the group,    r' = r - β Σ_u KL_u
    L = -min(s A, clip(s, 1 ± ε) A),    s = exp Σ_u log ρ_u

The whole sample is one action, so there is one ratio a sample. At s = 1 the gradient is the paper's, that of -A log p.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import penalty, rollouts, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, LogProbs, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    *,
    clip: NonNegativeFloat = 0.2,
) -> Loss:
    """log_probs, old_log_probs, advantages, mask: `[B, U]`. lengths: how many units count, `[B]`. clip: ε."""
    log_ratios = LogProbs(log_probs - old_log_probs, mask).sum()[:, None].expand_as(mask)
    return surrogate.loss(log_ratios, advantages, mask, lengths, clip, clip)


def advantages(
    parts: Parts, experience: Experience, *, beta: NonNegativeFloat = 0.05, estimator: kl.Estimator = "k1"
) -> dict[str, Tensor]:
    """beta: β. estimator: of KL."""
    rewards = penalty.penalised(parts, experience, beta, estimator)
    # The mean over units of what is the same for all of them is that of the sample.
    return rollouts.prepared(experience, maths.leave_one_out(rewards, experience.group), "own")


terms = rollouts.terms
objective = Objective(loss, terms, advantages)
