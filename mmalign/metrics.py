"""Metrics under their names in the config, checked: what a benchmark counts of each sample, and its formulas."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmalign.errors import UserError
from mmalign.parts import Counts
from mmalign.records import Samples


def ratio(part: float, whole: float) -> float:
    """`part / whole`, and 0 of nothing, as benchmarks have it: report what was counted beside it."""
    return part / whole if whole else 0.0


def f1(precision: float, recall: float) -> float:
    """The harmonic mean of both; 0 where both are."""
    return ratio(2 * precision * recall, precision + recall)


@dataclass(frozen=True)
class CheckedMetric:
    """A plugin's metric under its name in the config. judge: what it asks, where it asks anybody."""

    name: str
    metric: Any
    judge: Any = None

    def counts(self, samples: Samples) -> Sequence[Counts | None]:
        """As the metric counts. Raises UserError when it refuses the samples, or does not give one finite row a sample."""
        try:
            asked = () if self.judge is None else (self.judge,)
            rows: Sequence[Counts | None] = self.metric.counts(samples, *asked)
        except UserError as error:
            raise UserError(f"metric '{self.name}': {error}") from error
        if len(rows) != len(samples):
            raise UserError(
                f"metric '{self.name}' must count each of {len(samples)} samples; it returned {len(rows)} rows"
            )
        for row in rows:
            for name, count in (row or {}).items():
                if not math.isfinite(count):
                    raise UserError(f"metric '{self.name}' counted {count} of '{name}': return None for such a sample")
        return rows

    def numbers(self, sums: Counts) -> Counts:
        """The metric's formulas."""
        numbers: Counts = self.metric.numbers(sums)
        return numbers
