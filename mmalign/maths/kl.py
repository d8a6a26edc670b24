"""Estimators of KL(p ‖ r) from units that p drew. Schulman 2020, "Approximating KL divergence".

With d = log p - log r of the drawn unit, any shape. Each is elementwise; how they are averaged belongs to who asks.
"""

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def k1(log_ratio: Tensor) -> Tensor:
    """d: unbiased; may be negative."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """d² / 2: never negative and of low variance, but biased."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(-d) - 1 + d: unbiased and never negative; 0 only where p and r agree."""
    return (-log_ratio).expm1() + log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
"""By name. In a reward k1 is the choice; as a loss its gradient is 0 on average, and k2's is that of the divergence."""
