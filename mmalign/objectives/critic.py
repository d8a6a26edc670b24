"""What `ppo` asks of a critic: V, the value of what came before each unit, and what the units earned that V should foresee."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmalign.errors import UserError
from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import penalty, rollouts
from mmalign.parts import Batch, Parts
from mmalign.processes.policy import evaluating
from mmalign.records import Experience


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """As those of `rollouts`, and `values`, V with gradient, `[B, U]`, from the same forward."""
    log_probs, values = parts.policy.replay_with_values(batch["rollout"])
    return {"log_probs": log_probs.values, "values": values, **rollouts.own(batch)}


def loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½ max((V - R)², (clip(V, V_old ± ε) - R)²), any shape."""
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (bounded - returns).square())


def values(parts: Parts, experience: Experience) -> Tensor:
    """V of the buffer, `[N, U]`, without gradient; 0 where no unit counts."""
    pieces = experience.rollout.pieces(experience.at_once)
    with torch.no_grad(), evaluating(parts.policy.network):
        return torch.cat([parts.policy.replay_with_values(some)[1] for some in pieces])


def counted(experience: Experience) -> Tensor:
    """The mask `[N, U]` without the samples that have no score."""
    return experience.rollout.log_probs.mask * experience.scores.values.isfinite()[:, None]


def earned(parts: Parts, experience: Experience, beta: float, estimator: kl.Estimator, whiten: bool) -> Tensor:
    """What the reward gave at each unit less β KL, `[N, U]`; 0 for samples without a score.

    whiten: divide all of that by its deviation over the buffer.
    """
    mask, scores = counted(experience), experience.scores
    units = torch.zeros_like(mask) if scores.units is None else _as_wide(scores.units, mask)
    if scores.spans is not None:
        units = units + torch.where(mask > 0, parts.policy.at_units(experience.rollout, scores.spans), 0)
    rest = torch.where(scores.values.isfinite(), scores.values, 0) - units.sum(dim=1)
    given = units + maths.at_last(rest, mask)
    if beta > 0:
        given = given - beta * penalty.divergence(parts, experience, estimator) * mask
    return maths.whitened(given, mask, shift_mean=False) if whiten else given


def _as_wide(units: Tensor, mask: Tensor) -> Tensor:
    if units.shape[1] > mask.shape[1]:
        raise UserError(f"rewards: one tells of {units.shape[1]} units, but the longest sample has {mask.shape[1]}")
    return torch.where(mask > 0, pad(units, (0, mask.shape[1] - units.shape[1])), 0)
