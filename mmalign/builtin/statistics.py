"""What scores say: means, standard errors and paired comparisons, in float64 and in plain Python.

A score that is not finite means that its sample went unscored: it is counted and left out; of a pair, both sides are.
"""

import math
from collections.abc import Sequence
from typing import Any

CLEAR = 2.0
"""How many standard errors a difference must reach to be called a change."""


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def standard_error(values: Sequence[float]) -> float:
    """Sample standard deviation (with n - 1) over sqrt(n); NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def summary(scores: Sequence[float]) -> dict[str, float]:
    """The "mean" of the "n" finite scores, its "se", and how many were "unscored"."""
    known = [score for score in scores if math.isfinite(score)]
    unscored = len(scores) - len(known)
    return {"mean": mean(known), "se": standard_error(known), "n": len(known), "unscored": unscored}


def paired(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Compare scores of the same prompts and seeds.

    Returns "before" and "after" (each "mean", "se"), their "difference" ("mean", and "se" of the paired differences),
    "win_rate" (share of pairs in which after is higher; a tie counts one half), "ties" (their share), "n" pairs, and
    "unscored" pairs if any.
    Raises ValueError for unequal lengths.
    """
    pairs = list(zip(before, after, strict=True))
    known = [(b, a) for b, a in pairs if math.isfinite(b) and math.isfinite(a)]
    left_out = len(pairs) - len(known)
    return {
        "before": _short([b for b, _ in known]),
        "after": _short([a for _, a in known]),
        "difference": _short([a - b for b, a in known]),
        "win_rate": mean([1.0 if a > b else 0.5 if a == b else 0.0 for b, a in known]),
        "ties": mean([float(a == b) for b, a in known]),
        "n": len(known),
        **({"unscored": left_out} if left_out else {}),
    }


def direction(difference: float, se: float) -> int:
    """1 for a clear rise, -1 for a clear fall (by at least `CLEAR` standard errors), 0 for neither or for NaN."""
    if difference >= CLEAR * se and difference > 0:
        return 1
    return -1 if -difference >= CLEAR * se and difference < 0 else 0


def _short(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "se": standard_error(values)}
