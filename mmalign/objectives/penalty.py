"""What keeps the policy near its reference, worked out once a buffer: KL(p ‖ r) of the units that p drew.

As a penalty it is subtracted from the reward, r - β KL, so that the policy is paid for staying; in a loss it is added
(`surrogate.regularised`). Where β is 0 the reference is never asked.
"""

import torch
from torch import Tensor

from mmalign.maths import kl
from mmalign.parts import Parts
from mmalign.records import Experience


def reference_log_probs(parts: Parts, experience: Experience) -> Tensor:
    """How likely the reference finds the units, `[N, U]`."""
    with torch.no_grad(), parts.policy.reference():
        return torch.cat([parts.policy.replay(some).values for some in experience.rollout.pieces(experience.at_once)])


def reference(parts: Parts, experience: Experience, beta: float) -> dict[str, Tensor]:
    """`reference_log_probs` for a loss with β KL(p ‖ r), nothing where β is 0."""
    return {"reference_log_probs": reference_log_probs(parts, experience)} if beta > 0 else {}


def divergence(parts: Parts, experience: Experience, estimator: kl.Estimator) -> Tensor:
    """KL(p ‖ r) of each unit as the policy drew it, estimated, `[N, U]`; 0 where no unit counts."""
    log_probs = experience.rollout.log_probs
    return kl.ESTIMATORS[estimator](log_probs.values - reference_log_probs(parts, experience)) * log_probs.mask


def penalised(parts: Parts, experience: Experience, beta: float, estimator: kl.Estimator) -> Tensor:
    """r - β Σ_u KL_u, `[N]`. The reference is asked only where β is above 0."""
    rewards = experience.scores.values
    return rewards - beta * divergence(parts, experience, estimator).sum(dim=1) if beta > 0 else rewards
