"""Estimators of KL(p ‖ r) from units that p drew. Schulman 2020, "Approximating KL divergence".

With d = log p - log r of the drawn unit, any shape. Each is elementwise; how they are averaged belongs to who asks.
"""

from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """d: unbiased; may be negative."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """d² / 2: never negative and of low variance, but biased."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased and never negative; 0 only where p and r agree."""
    return (-log_ratio).expm1() + log_ratio
