"""The geometry of line charts: numbers in, SVG coordinates out. Colours and fonts belong to the template."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 348, 14, 174
"""The drawing area within the picture."""

MOST_POINTS = 300
"""A longer line is averaged down to about this many points: more cannot be seen."""


@dataclass(frozen=True)
class Series:
    """One line: what it is called, its index among the runs (which gives its colour), `(x, y, se)` in order of x."""

    name: str
    index: int
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Mark:
    """A point with its error bar from `low` to `high`, and what it says."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn series. path: SVG path data. raw: the same before smoothing, or empty."""

    index: int
    path: str
    raw: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws. note: a word beside the title. level: y of the dashed line, or None."""

    title: str
    note: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    level: float | None


def curve(title: str, series: Sequence[Series]) -> Chart:
    """A chart of many points: averaged down, and smoothed where there are enough of them."""
    thin = [Series(s.name, s.index, _thinned(s.points)) for s in series]
    x, y = _scales(thin)
    lines = [_smooth_line(s, x, y, alone=len(series) == 1) for s in thin]
    return Chart(title, "", x.ticks(), y.ticks(), lines, None)


def points(title: str, note: str, series: Sequence[Series]) -> Chart:
    """A chart of few points with error bars, and a dashed line where a single series began."""
    x, y = _scales(series)
    lines = [Line(s.index, _path(s.points, x, y), "", list(_marks(s, x, y))) for s in series]
    level = y(series[0].points[0][1]) if len(series) == 1 else None
    return Chart(title, note, x.ticks(), y.ticks(), lines, level)


@dataclass(frozen=True)
class Scale:
    """Maps `low`..`high` to `start`..`stop` of the picture."""

    low: float
    high: float
    start: float
    stop: float
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start), 1)

    def ticks(self) -> list[Tick]:
        """About five round numbers within the scale."""
        step = round_step((self.high - self.low) / 5)
        step = max(1.0, round(step)) if self.whole else step
        places = max(0, -math.floor(math.log10(step) + 1e-9)) + (0 if _leading(step) != 2.5 else 1)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [Tick(self(i * step), _label(i * step, places)) for i in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def _leading(step: float) -> float:
    return round(step / 10.0 ** math.floor(math.log10(step) + 1e-9), 3)


def _label(value: float, places: int) -> str:
    if value and (places > 4 or abs(value) >= 1e6):
        return f"{value:.2g}"
    return f"{value + 0.0:.{places}f}"


def _scales(series: Sequence[Series]) -> tuple[Scale, Scale]:
    """Scales that hold every finite point and its error bar, with a little air above and below."""
    known = [point for s in series for point in s.points if math.isfinite(point[1])] or [(0.0, 0.0, 0.0)]
    bars = [0.0 if math.isnan(se) else se for _, _, se in known]
    low = min(y - bar for (_, y, _), bar in zip(known, bars, strict=True))
    high = max(y + bar for (_, y, _), bar in zip(known, bars, strict=True))
    air = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-3)
    first, last = min(x for x, _, _ in known), max(x for x, _, _ in known)
    return Scale(first, max(last, first + 1), LEFT, RIGHT, whole=True), Scale(low - air, high + air, BOTTOM, TOP)


def _smooth_line(series: Series, x: Scale, y: Scale, alone: bool) -> Line:
    """A single series shows its own points faintly behind the smooth line; several would only cover each other."""
    if len(series.points) < 40:
        return Line(series.index, _path(series.points, x, y), "", [])
    raw = _path(series.points, x, y) if alone else ""
    return Line(series.index, _path(list(_smoothed(series.points)), x, y), raw, [])


def _thinned(points: Sequence[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Means of neighbours, at most about `MOST_POINTS`. Points that are not finite count only where all are so."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if size > 1 else []
    if not groups:
        return list(points)
    return [(group[-1][0], _mean([y for _, y, _ in group]), math.nan) for group in groups]


def _smoothed(points: Sequence[tuple[float, float, float]]) -> Iterator[tuple[float, float, float]]:
    """Each point as the mean of its neighbourhood, a tenth of the line wide and narrower at both ends."""
    reach = max(1, len(points) // 20)
    for i, (x, _, se) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        yield x, _mean([y for _, y, _ in points[i - near : i + near + 1]]), se


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _path(points: Sequence[tuple[float, float, float]], x: Scale, y: Scale) -> str:
    """SVG path data, broken where a value is not finite."""
    words = []
    command = "M"
    for at, value, _ in points:
        if math.isfinite(value):
            words.append(f"{command}{x(at):g} {y(value):g}")
        command = "L" if math.isfinite(value) else "M"
    return "".join(words)


def _marks(series: Series, x: Scale, y: Scale) -> Iterator[Mark]:
    for at, value, se in series.points:
        if math.isfinite(value):
            bar = se if math.isfinite(se) else 0.0
            text = f"{series.name}, step {at:g}: {value:.4g} ± {bar:.2g}"
            yield Mark(x(at), y(value), y(value - bar), y(value + bar), text)
