"""How well scores agree with labels. Each is NaN where no label can tell."""

import torch
from torch import Tensor


def accuracy(gaps: Tensor, preferences: Tensor) -> Tensor:
    """The share of decided pairs whose better sample scores higher.

    gaps: first minus second, preferences: 1 for the first, -1 for the second, 0 for a tie, NaN for unknown; one shape.
    """
    decided = preferences.abs() == 1
    return (gaps * preferences > 0)[decided].float().mean()


def tie_calibrated_accuracy(gaps: Tensor, preferences: Tensor) -> Tensor:
    """The same with ties, which count as found where |gap| <= ε. Deutsch et al. 2023, arXiv:2305.14324.

    max over ε of (decided pairs on the right side of ε + ties within it) / all known pairs. ε is the best of these very
    pairs, so that few of them flatter.
    """
    known = ~preferences.isnan()
    gaps, preferences = gaps[known], preferences[known]
    sizes, order = gaps.abs().sort()
    right = (gaps * preferences > 0)[order].float()
    tied = (preferences == 0)[order].float()
    zero = right.new_zeros(1)
    # Of the n smallest gaps called ties, for n = 0, 1, ...: ties among them, and decided ones right among the rest.
    correct = torch.cat([zero, tied.cumsum(0)]) + right.sum() - torch.cat([zero, right.cumsum(0)])
    equal = sizes[1:] == sizes[:-1]  # no ε parts these
    possible = torch.cat([~equal.new_zeros(1), ~equal, ~equal.new_zeros(1)])[: len(correct)]
    return correct[possible].max() / len(gaps) if len(gaps) else gaps.new_tensor(torch.nan)


def recalls(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """`[C]`: of each class the share that was found. predicted, labels: `[N]` class indices; -1 is no label."""
    found = [(predicted[labels == c] == c).float().mean() for c in range(classes)]
    return torch.stack(found)


def kendall(one: Tensor, other: Tensor) -> Tensor:
    """Kendall's τ of two rankings of the same N things, in [-1, 1]: how many pairs both order alike less how many they order
    the other way round, as a share of all pairs. One that either ties counts as neither; without pairs it is 0.
    """
    first, second = torch.combinations(torch.arange(len(one)), 2).to(one.device).unbind(dim=1)
    alike = (one[first] - one[second]).sign() * (other[first] - other[second]).sign()
    return alike.sum() / max(1, len(alike))
