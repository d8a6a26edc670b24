"""By how much a sample, or a unit of it, was better than could be expected.

Groups are the samples of one prompt, which stand beside each other: `[N]` is `[N / group, group]` in a row. A score that is
not finite means that its sample went unscored: it counts in no mean, and its advantage is 0.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]
"""A discount."""

Spread = Literal["group", "batch", "none"]
"""What differences are divided by: the deviation within the group, that of the whole batch, or nothing."""


def grouped(rewards: Tensor, group: int, spread: Spread = "group", eps: float = 1e-4) -> Tensor:
    """`[N]`: (r - m) / (s + ε), where m is the mean of the group and s a deviation with n - 1.

    Where all rewards of a group are equal, and in a group of one, it is 0.
    """
    rows, known = _rows(rewards, group)
    centred = torch.where(known, rows - _mean(rows, known), 0)
    centred = centred.masked_fill(tied(rewards, group)[:, None], 0).flatten()
    if spread == "none":
        return centred
    deviation = _deviation(rows, known) if spread == "group" else _deviation(rows.flatten(), known.flatten())
    return centred / (deviation.expand_as(rows).flatten() + eps)


def among(rewards: Tensor, rivals: Tensor, eps: float = 1e-4) -> Tensor:
    """`[B]`: (r - m) / (s + ε) of each score, where m and s are mean and deviation (with n - 1) of its rivals `[B, R]`, itself
    included. Rivals that are not finite do not count.
    """
    known = rivals.isfinite()
    rows = torch.where(known, rivals, 0)
    return (rewards - _mean(rows, known)[:, 0]) / (_deviation(rows, known)[:, 0] + eps)


def leave_one_out(rewards: Tensor, group: int) -> Tensor:
    """`[N]`: r less the mean of the others of its group; 0 where there are no others."""
    rows, known = _rows(rewards, group)
    count = known.sum(dim=1, keepdim=True)
    others = (torch.where(known, rows, 0).sum(dim=1, keepdim=True) - rows) / (count - 1).clamp(min=1)
    return torch.where(known & (count > 1), rows - others, 0).flatten()


def running(rewards: Tensor, past: Sequence[Sequence[float]], least: int, eps: float = 1e-6) -> Tensor:
    """`[N]`: (r - m) / (s + ε) of what each sample's prompt scored until now, this batch included.

    past: by sample. A prompt with fewer than `least` scores gets mean and deviation (with n) of the batch.
    """
    known = rewards.isfinite()
    batch = rewards[known]
    found = torch.zeros_like(rewards)
    for i in known.nonzero().flatten().tolist():
        seen = rewards.new_tensor(past[i]) if len(past[i]) >= least else batch
        found[i] = (rewards[i] - seen.mean()) / (seen.std(correction=0) + eps)
    return found


def tied(rewards: Tensor, group: int) -> Tensor:
    """`[N / group]`: whether a group tells nothing, since its rewards are all equal, or fewer than two are known."""
    rows, known = _rows(rewards, group)
    inf = rows.new_full((), torch.inf)
    return torch.where(known, rows, -inf).amax(dim=1) <= torch.where(known, rows, inf).amin(dim=1)


def whitened(values: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(v - m) / s, or v / s unless `shift_mean`. mask: like values, 1 where one counts; m and s (with n) are of those.

    Either is the same for rewards of any size. TRL adds m again to (v - m) / s, which is not.
    """
    total = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / total
    deviation = (((values - mean).square() * mask).sum() / total + eps).sqrt()
    return (values - mean if shift_mean else values) / deviation * mask


def generalised(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """GAE. Schulman et al. 2015, arXiv:1506.02438.

        δ_u = r_u + γ V_{u+1} - V_u,    A_u = δ_u + γ λ A_{u+1}

    `[B, U]`, like rewards (r), values (V) and mask, whose ones stand before its zeros: after the last unit V and A are 0.
    A + V is the return that V should learn.
    """
    found = torch.zeros_like(values)
    ahead = value_ahead = torch.zeros_like(values[:, 0])
    for u in reversed(range(values.shape[1])):
        counts = mask[:, u] > 0
        delta = rewards[:, u] + gamma * value_ahead - values[:, u]
        ahead = torch.where(counts, delta + gamma * lam * ahead, 0)
        value_ahead = torch.where(counts, values[:, u], 0)
        found[:, u] = ahead
    return found


def at_last(scores: Tensor, mask: Tensor) -> Tensor:
    """`[B, U]`: each score `[B]` at the last unit that counts, 0 elsewhere."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device) * (mask > 0)
    found = torch.zeros_like(mask, dtype=scores.dtype)
    last = (places.amax(dim=1) - 1).clamp(min=0)
    return found.scatter(1, last[:, None], scores[:, None]) * (mask > 0)


def _rows(rewards: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """`[P, group]`: the rewards, 0 where unknown, and which are known."""
    rows = rewards.reshape(-1, group)
    known = rows.isfinite()
    return torch.where(known, rows, 0), known


def _mean(rows: Tensor, known: Tensor) -> Tensor:
    return (rows * known).sum(dim=-1, keepdim=True) / known.sum(dim=-1, keepdim=True).clamp(min=1)


def _deviation(rows: Tensor, known: Tensor) -> Tensor:
    """With n - 1, of what is known, over the last dimension."""
    squares = ((rows - _mean(rows, known)).square() * known).sum(dim=-1, keepdim=True)
    return (squares / (known.sum(dim=-1, keepdim=True) - 1).clamp(min=1)).sqrt()
