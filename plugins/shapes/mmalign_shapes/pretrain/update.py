"""What every training here does with a loss."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def update(loss: Tensor, weights: Iterable[Tensor], optimizer: Any, schedule: Any = None) -> None:
    """One step down the gradient, which is cut to a norm of 1 over `weights`; then one of the schedule, where there is one."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    if schedule is not None:
        schedule.step()
