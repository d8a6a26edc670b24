"""REINFORCE. Williams 1992.

    L = -1/n Σ_u A log p_u,    A = (r' - mean) / deviation over the buffer,    r' = r - β Σ_u KL_u

On a denoising model this is DDPO-SF (Black et al. 2023, arXiv:2305.13301). There is no ratio to make up for weights that have
moved since the samples were drawn, so `rollouts.epochs` is 1, and a buffer is best one update.
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import penalty, rollouts, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, lengths: Tensor) -> Loss:
    """log_probs, old_log_probs, advantages, mask: `[B, U]`. lengths: n, `[B]`. The old ones are only reported."""
    metrics = {"step_kl": surrogate.mean(kl.k3(old_log_probs - log_probs.detach()), mask)}
    return Loss(surrogate.summed(-advantages * log_probs, mask, lengths), metrics)


def advantages(
    parts: Parts,
    experience: Experience,
    *,
    whiten: bool = True,
    length: rollouts.Length = "own",
    beta: NonNegativeFloat = 0.0,
    estimator: kl.Estimator = "k1",
) -> dict[str, Tensor]:
    """whiten: whether differences from the buffer's mean are divided by its deviation. beta: β. estimator: of KL."""
    rewards = penalty.penalised(parts, experience, beta, estimator)
    found = maths.grouped(rewards, len(rewards), "group" if whiten else "none", eps=1e-8)
    return rollouts.prepared(experience, found, length)


terms = rollouts.terms
objective = Objective(loss, terms, advantages)
