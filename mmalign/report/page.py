"""Put a report together: gather what the records hold, and fill the template."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmalign.builtin.held_out import before_and_after
from mmalign.builtin.statistics import direction, summary
from mmalign.report.charts import Chart, Series, curve, points
from mmalign.report.pictures import cards, sheets
from mmalign.report.reading import Record
from mmalign.report.verdict import number, status, verdict
from mmalign.words import duration, plus_minus

_LAST = {"grad_norm": 3, "learning_rate": 4}
_HIDDEN = {"step", "skipped"}


@dataclass(frozen=True)
class Comparison:
    """One line of the evaluation table, as text. change: 1, -1 or 0 as the difference is clear. wins, ties: in percent."""

    reward: str
    role: str
    run: str
    before: str
    after: str
    difference: str
    change: int
    wins: float | None
    ties: float
    n: str


@dataclass(frozen=True)
class Measured:
    """One line of the table of held-out rows, as text."""

    metric: str
    run: str
    before: str
    after: str


@dataclass(frozen=True)
class Pace:
    """One line of the table of times, as text."""

    run: str
    updates: int
    each: str
    training: str
    evaluation: str


def render(records: Sequence[Record]) -> str:
    """The whole page."""
    labels = _labels(records)
    environment = Environment(
        loader=PackageLoader("mmalign.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        runs=list(zip(labels, records, strict=True)),
        several=len(records) > 1,
        status=status,
        verdict=verdict,
        facts=_facts,
        cards=cards(records, labels),
        sheets=sheets(records, labels),
        comparisons=list(comparisons(records, labels)),
        measured=list(held_out(records, labels)),
        evaluation_charts=list(evaluation_charts(records, labels)),
        training_charts=list(training_charts(records, labels)),
        paces=list(paces(records, labels)),
        differences=differences(records),
        flat=flat,
    )


def comparisons(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Comparison]:
    """The evaluation table: the runs of one reward below each other, trained rewards first."""
    for name, role in _roles(records).items():
        for record, label in zip(records, labels, strict=True):
            if name in record.rewards:
                yield _comparison(name, role, label, record.rewards[name])


def held_out(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Measured]:
    """The table of held-out rows: the runs of one metric below each other, the loss first."""
    names = dict.fromkeys(name for record in records for row in record.held_out[-1:] for name in row if name != "step")
    for name in names:
        for record, label in zip(records, labels, strict=True):
            if record.held_out and name in record.held_out[-1]:
                found = before_and_after(record.held_out)[name]
                yield Measured(name, label, *(_told(found[when]) for when in ("before", "after")))


def _told(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def evaluation_charts(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Chart]:
    """A chart a reward: its mean at every evaluated step."""
    for name, role in _roles(records).items():
        series = []
        for index, (record, label) in enumerate(zip(records, labels, strict=True)):
            means = {step: summary(scores[name]) for step, scores in record.scores.items() if name in scores}
            line = [(float(step), m["mean"], m["se"]) for step, m in means.items()]
            series += [Series(label, index, line)] if line else []
        if any(len(s.points) > 1 for s in series):
            yield points(name, role, series)


def training_charts(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Chart]:
    """A chart a metric: the loss first, then rewards, then the rest. What never changes has none."""
    names = {name for record in records for row in record.metrics for name in row} - _HIDDEN
    for name in sorted(names, key=_rank):
        series = []
        for index, (record, label) in enumerate(zip(records, labels, strict=True)):
            line = [(float(r["step"]), number(r[name]), math.nan) for r in record.metrics if name in r]
            series += [Series(label, index, line)] if line else []
        if any(len({y for _, y, _ in s.points if math.isfinite(y)}) > 1 for s in series):
            yield curve(name, series)


def paces(records: Sequence[Record], labels: Sequence[str]) -> Iterator[Pace]:
    """The table of times."""
    for record, label in zip(records, labels, strict=True):
        steps = [row["seconds"] for row in record.timing if "seconds" in row]
        evaluation = sum(row["evaluation_seconds"] for row in record.timing if "evaluation_seconds" in row)
        if steps:
            each = duration(statistics.median(steps))
            yield Pace(label, len(steps), each, duration(sum(steps)), duration(evaluation) if evaluation else "none")


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """Keys of the configs whose values differ between the runs, and the values, one a run."""
    plain = [flat(record.config) for record in records]
    keys = dict.fromkeys(key for config in plain for key in config if key != "name")
    table = {key: [config.get(key, "not set") for config in plain] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def flat(value: Any, key: str = "") -> dict[str, str]:
    """Nested mappings and lists as dotted keys with their values as text."""
    if isinstance(value, Mapping):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {key: str(value)}
    return {k: v for name, item in items for k, v in flat(item, f"{key}.{name}".lstrip(".")).items()}


def _comparison(name: str, role: str, label: str, reward: Mapping[str, Any]) -> Comparison:
    def shown(part: str, sign: bool = False) -> str:
        return plus_minus(number(reward[part]["mean"]), number(reward[part]["se"]), sign)

    difference = reward["difference"]
    wins = None if reward["win_rate"] is None else 100 * reward["win_rate"]
    ties = 100 * (reward.get("ties") or 0.0)
    n = str(reward["n"]) + (f" ({reward['unscored']} unscored)" if "unscored" in reward else "")
    change = direction(number(difference["mean"]), number(difference["se"]))
    return Comparison(
        name, role, label, shown("before"), shown("after"), shown("difference", True), change, wins, ties, n
    )


def _roles(records: Sequence[Record]) -> dict[str, str]:
    """Every evaluated reward and its role, trained ones first; the role is empty until training was evaluated."""
    roles = {name: "" for record in records for scores in record.scores.values() for name in scores}
    roles |= {name: reward["role"] for record in records for name, reward in record.rewards.items()}
    return dict(sorted(roles.items(), key=lambda item: item[1] != "trained"))


def _labels(records: Sequence[Record]) -> list[str]:
    """The runs' names, or their folders where a name appears twice."""
    names = [record.name for record in records]
    return names if len(set(names)) == len(names) else [str(record.folder) for record in records]


def _facts(record: Record) -> str:
    """The run in one line below its name."""
    objective, model = record.option("objective", "type"), record.option("model", "type")
    prompts = max((len(next(iter(s.values()), [])) for s in record.scores.values()), default=0)
    skipped = sum(bool(row.get("skipped")) for row in record.metrics)
    parts = [f"{objective} on {model}" if objective and model else "", status(record)]
    parts += [f"{prompts} evaluation prompts"] if prompts else []
    parts += [f"{skipped} updates skipped"] if skipped else []
    return " · ".join(part for part in parts if part)


def _rank(name: str) -> tuple[int, str]:
    return 0 if name == "loss" else 1 if name.startswith("reward") else _LAST.get(name, 2), name
