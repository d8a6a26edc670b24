"""What scores say: means, standard errors and paired comparisons, in float64 and in plain Python.

A score that is not finite means that its sample went unscored: it is counted and left out; of a pair, both sides are.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Counts = Mapping[str, float]
Numbers = Callable[[Counts], Counts]

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


def estimates(numbers: Numbers, rows: Sequence[Counts | None]) -> dict[str, dict[str, float]]:
    """Each of the `numbers` of what was counted: the number as "mean", its "se" (`jackknife`), and as in `summary` "n" and
    "unscored", the rows that are None.
    """
    known = [row for row in rows if row is not None]
    values, without = _left_out(numbers, known)
    size = {"n": len(known), "unscored": len(rows) - len(known)}
    return {name: {"mean": value, "se": jackknife(without[name]), **size} for name, value in values.items()}


def paired_estimates(
    numbers: Numbers, before: Sequence[Counts | None], after: Sequence[Counts | None]
) -> dict[str, dict[str, Any]]:
    """As `paired`, for each of the `numbers` of what was counted of the same prompts and seeds; without wins and ties.

    Raises ValueError for unequal lengths.
    """
    pairs = list(zip(before, after, strict=True))
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    left_out = len(pairs) - len(known)
    old, without_old = _left_out(numbers, [b for b, _ in known])
    new, without_new = _left_out(numbers, [a for _, a in known])
    table: dict[str, dict[str, Any]] = {}
    for name in {**old, **new}:
        changes = [n - o for o, n in zip(without_old[name], without_new[name], strict=True)]
        table[name] = {
            "before": {"mean": old[name], "se": jackknife(without_old[name])},
            "after": {"mean": new[name], "se": jackknife(without_new[name])},
            "difference": {"mean": new[name] - old[name], "se": jackknife(changes)},
            "n": len(known),
            **({"unscored": left_out} if left_out else {}),
        }
    return table


def jackknife(without: Sequence[float]) -> float:
    """The standard error of a number from its values with one row left out each time; NaN of fewer than two.

    sqrt((n - 1) / n · Σ (θ_(i) - mean θ_(·))²), Tukey 1958. Of a mean it is `standard_error`; of a ratio of sums it knows that
    rows count for more than others.
    """
    n = len(without)
    if n < 2:
        return math.nan
    centre = mean(without)
    return math.sqrt((n - 1) / n * math.fsum((value - centre) ** 2 for value in without))


def summed(rows: Iterable[Counts]) -> Counts:
    """The sums of what was counted; 0 of what never was."""
    sums: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        for name, count in row.items():
            sums[name] += count
    return sums


def _left_out(numbers: Numbers, rows: Sequence[Counts]) -> tuple[Counts, Mapping[str, list[float]]]:
    """The numbers of all rows (NaN of none), and by name those of all rows but one, for each."""
    sums = summed(rows)
    whole = {name: value if rows else math.nan for name, value in numbers(sums).items()}
    others = [numbers(summed([sums, {name: -count for name, count in row.items()}])) for row in rows]
    return whole, {name: [other.get(name, math.nan) for other in others] for name in whole}


def direction(difference: float, se: float) -> int:
    """1 for a clear rise, -1 for a clear fall (by at least `CLEAR` standard errors), 0 for neither or for NaN."""
    if difference >= CLEAR * se and difference > 0:
        return 1
    return -1 if -difference >= CLEAR * se and difference < 0 else 0


def _short(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "se": standard_error(values)}
