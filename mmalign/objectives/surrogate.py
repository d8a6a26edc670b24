"""The clipped surrogate. Schulman et al. 2017, arXiv:1707.06347, equation 7.

    L_u = -min( ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A )

ρ is how much likelier a unit is now than when it was drawn. Where a step would make what is clipped already even better, the
gradient is 0. At the first step of a buffer ρ is 1, and the gradient that of -A log p.
"""

from torch import Tensor

from mmalign.maths import kl
from mmalign.records import Loss


def loss(
    log_ratios: Tensor, advantages: Tensor, mask: Tensor, lengths: Tensor, clip_low: float, clip_high: float
) -> Loss:
    """log_ratios: log ρ, advantages: A, mask: all `[B, U]`. lengths: n, `[B]`. clip_low, clip_high: ε."""
    ratios = log_ratios.exp()
    plain, bounded = ratios * advantages, ratios.clamp(1 - clip_low, 1 + clip_high) * advantages
    units = -plain.minimum(bounded)
    metrics = {
        "clip_fraction": mean((bounded < plain).to(mask), mask),
        "ratio": mean(ratios.detach(), mask),
        "step_kl": mean(kl.k3(-log_ratios.detach()), mask),
    }
    return Loss(summed(units, mask, lengths), metrics)


def regularised(
    found: Loss,
    log_probs: Tensor,
    reference: Tensor | None,
    mask: Tensor,
    n: Tensor,
    beta: float,
    estimator: kl.Estimator,
) -> Loss:
    """A loss plus β KL(p ‖ r) of its units, where there is a reference."""
    if reference is None:
        return found
    return added(found, "kl", kl.ESTIMATORS[estimator](log_probs - reference), mask, n, beta)


def added(found: Loss, name: str, units: Tensor, mask: Tensor, lengths: Tensor, weight: float) -> Loss:
    """A loss plus a weight times another one of the same units, whose mean is a metric."""
    metrics = {**found.metrics, name: mean(units.detach(), mask)}
    return Loss(found.values + weight * summed(units, mask, lengths), metrics)


def summed(units: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    """`[B]`: Σ_u L_u / n."""
    return (units * mask).sum(dim=1) / lengths


def mean(units: Tensor, mask: Tensor) -> Tensor:
    """The mean of the units that count; 0 where none does."""
    return (units * mask).sum() / mask.sum().clamp(min=1e-8)
