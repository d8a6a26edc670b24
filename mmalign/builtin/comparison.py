"""Two evaluations of the same prompts and seeds against each other: every reward, and every number of every metric."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmalign.builtin.files import counts_of, scores_of
from mmalign.builtin.statistics import estimates, paired, paired_estimates, summary

if TYPE_CHECKING:
    from mmalign.parts import Judge, Metric

Row = Mapping[str, Any]


class Comparison:
    """What `before` and `after`, the rows of two steps, say of the run's judges and metrics."""

    def __init__(
        self,
        judges: "Mapping[str, Judge]",
        metrics: "Mapping[str, Metric]",
        before: Sequence[Row],
        after: Sequence[Row],
    ):
        self.judges, self.metrics = judges, metrics
        self.before, self.after = before, after

    @cached_property
    def rewards(self) -> dict[str, Any]:
        """By reward: its role, and what `paired` says."""
        before, after = scores_of(self.before), scores_of(self.after)
        return {name: {"role": j.role, **paired(before[name], after[name])} for name, j in self.judges.items()}

    @cached_property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """By metric and number: what `paired_estimates` says."""
        return {
            name: paired_estimates(metric.numbers, counts_of(self.before, name), counts_of(self.after, name))
            for name, metric in self.metrics.items()
        }

    def written(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        return {"rewards": self.rewards, **({"metrics": self.numbers} if self.metrics else {})}

    def results(self) -> dict[str, dict[str, Any]]:
        """What plugins hear: how it is after, and the paired difference."""
        return dict(self._results())

    def _results(self) -> Iterator[tuple[str, dict[str, Any]]]:
        scores = scores_of(self.after)
        for name, compared in self.rewards.items():
            yield name, {"role": compared["role"], **summary(scores[name]), **_change(compared)}
        for name, metric in self.metrics.items():
            now = estimates(metric.numbers, counts_of(self.after, name))
            for number, compared in self.numbers[name].items():
                yield f"{name}/{number}", {"role": "metric", **now[number], **_change(compared)}


def _change(compared: Mapping[str, Any]) -> dict[str, Any]:
    difference = compared["difference"]
    wins = {"win_rate": compared["win_rate"]} if "win_rate" in compared else {}
    return {"difference": difference["mean"], "difference_se": difference["se"], **wins}
