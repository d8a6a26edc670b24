"""Read what was said of samples: preferences with ties and strength, ratings, labels of segments.

    prompt, chosen, rejected [, tie]       a preference: the first is better; with `tie`, or `scores` that are equal, neither is
    prompt, first, second, preference      the same: first, second or tie
    prompt, first, second, preferences     {dimension: first, second, tie or null}
    prompt, sample, rating or ratings      a number, or {dimension: number or null}
    prompt, sample, segments               [[start, end, {kind: class or null}], ...], counted in characters

Where the samples are texts, `completion` holds them. `strength` beside a preference tells how much better the better one is:
a number, or {dimension: number}. `annotator` tells whose preference it is. Preferences and ratings of all rows are checked
at once, before any picture is read.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

from mmalign.data.cells import named, narrowed, tied
from mmalign.data.presets import Preset
from mmalign.data.presets import preset as preset_of
from mmalign.data.sources import medium, pictures, table
from mmalign.data.texts import TextPairs, TextSamples, text_pair
from mmalign.errors import BadRow, UserError
from mmalign.parts import Row
from mmalign.records import EVERY, Prompt, Segment

_PREFERENCES = {"first": 1.0, "A": 1.0, "second": -1.0, "B": -1.0, "tie": 0.0, "same": 0.0}
_RATED = frozenset({"prompt", "sample", "images", "rating", "ratings"})
_JUDGED = ("preference", "preferences", "tie", "strength", "scores", "annotator")


class Preferences:
    """Two pictures (or videos) a prompt, and which is better, in one or several dimensions, with ties.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub, with the columns prompt, chosen, rejected; or
    prompt, first, second and preference or preferences. Media are relative to the file.
    preset: another layout: "videoalign" (path_A, path_B and votes in VQ, MQ and TA), "pick-a-pic" or "hpdv2".
    split: which split, for a data set on the hub.
    """

    def __init__(self, path: str, preset: str = "mmalign", split: str = "train"):
        self._table = table(path, split)
        self._folder = Path(path).parent
        self._preset = None if preset == "mmalign" else preset_of(preset)
        if self._preset is None:
            self._judged = _checked(path, self._table, _JUDGED, judgement)
            first, second = _sides(path, self._table)
            self._both: Callable[[Row], tuple[Any, Any]] = lambda row: (row[first], row[second])
        else:
            self._judged, self._both = _labelled(path, self._table, preset, self._preset)
        _some_decided(path, self._judged)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        row = self._table[index]
        sides = self._both(row)
        if None in sides:
            raise BadRow(f"row {index + 1}: the {'first' if sides[0] is None else 'second'} side names no file")
        first, second = (medium(side, self._folder) for side in sides)
        judged = self._judged[index]
        with named(f"row {index + 1}"):
            check_sides(first, second, judged)
        asked = row["prompt" if self._preset is None else self._preset.prompt]
        return {"prompt": Prompt(asked, images=pictures(row, self._folder)), "first": first, "second": second, **judged}


class TextPreferences(TextPairs):
    """Two answers a prompt, and which is better, in one or several dimensions, with ties; plain or conversational.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub, with the columns chosen, rejected; or first,
    second and preference or preferences. Pictures (images) are relative to the file.
    split: which split, for a data set on the hub.
    """

    layouts = (frozenset({"chosen", "rejected"}), frozenset({"first", "second"}))

    def __init__(self, path: str, split: str = "train"):
        super().__init__(path, split=split)
        self._judged = _checked(path, self._table, _JUDGED, judgement)
        self._sides = _sides(path, self._table)
        _some_decided(path, self._judged)

    def __getitem__(self, index: int) -> Row:
        row, judged = super().__getitem__(index), self._judged[index]
        with named(f"row {index + 1}"):
            check_sides(row["chosen"], row["rejected"], judged)
        return {"prompt": row["prompt"], "first": row["chosen"], "second": row["rejected"], **judged}

    def _decided(self) -> Sequence[int]:
        """All rows: a tie is told here."""
        return self._rows

    def _read(self, row: Mapping[str, Any]) -> Row:
        first, second = self._sides
        return text_pair({**row, "chosen": row[first], "rejected": row[second]}, self._folder)


class Ratings:
    """Pictures (or videos) with ratings: columns prompt, sample and rating or ratings. Other columns are the prompt's metadata.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Media are relative to the file.
    split: which split, for a data set on the hub.
    """

    def __init__(self, path: str, split: str = "train"):
        self._table = table(path, split)
        self._folder = Path(path).parent
        self._rated = _checked(path, self._table, ("rating", "ratings"), ratings)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        row = self._table[index]
        if row["sample"] is None:
            raise BadRow(f"row {index + 1}: no sample")
        sample = medium(row["sample"], self._folder)
        told = {name: cell for name, cell in row.items() if name not in _RATED}
        prompt = Prompt(row["prompt"], told, pictures(row, self._folder))
        return {"prompt": prompt, "sample": sample, "ratings": self._rated[index]}


class TextRatings(TextSamples):
    """Answers with ratings: the columns of text-samples, and rating or ratings.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    """

    def __init__(self, path: str, split: str = "train"):
        super().__init__(path, split=split)
        self._rated = _checked(path, self._table, ("rating", "ratings"), ratings)

    def __getitem__(self, index: int) -> Row:
        return {**super().__getitem__(index), "ratings": self._rated[index]}


class TextSegments(TextSamples):
    """Answers whose segments are labelled: the columns of text-samples, and segments.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    """

    def _read(self, row: Mapping[str, Any]) -> Row:
        read = super()._read(row)
        return {**read, "segments": segments(row.get("segments"), read["sample"])}


# ---- what a row says


def judgement(row: Mapping[str, Any]) -> dict[str, Any]:
    """`preferences` by dimension: 1 for the first, -1 for the second, 0 for a tie; `strengths`; the `annotator`, "" if
    nobody is named.
    """
    said: Any = row.get("preferences")
    if said is None:
        said = {EVERY: row["preference"] if "preference" in row else "tie" if row.get("tie") or tied(row) else "first"}
    found = {name: _preference(value) for name, value in said.items() if value is not None}
    if not found:
        raise UserError("nothing is preferred: label a dimension first, second or tie")
    scores, strength = row.get("scores"), row.get("strength")
    if scores is not None and strength is None:
        strength = abs(scores[0] - scores[1])
    strengths = _numbers(strength, "strength") if strength is not None else {}
    if any(value < 0 for value in strengths.values()):
        raise UserError("a strength is how much better the better one is, so it is 0 or more")
    annotator = row.get("annotator")
    return {"preferences": found, "strengths": strengths, "annotator": "" if annotator is None else str(annotator)}


def sides(row: Mapping[str, Any]) -> tuple[str, str]:
    """The columns that hold the two sides. Raises UserError where there are none, or nothing says which is better."""
    known = set(row)
    if {"first", "second"} <= known:
        if not {"preference", "preferences"} & known:
            raise UserError("which is better? Add a column preference or preferences")
        return "first", "second"
    if {"chosen", "rejected"} <= known:
        return "chosen", "rejected"
    raise UserError(f"needs the columns chosen, rejected or first, second; it has {', '.join(sorted(known))}")


def check_sides(first: Any, second: Any, judged: Mapping[str, Any]) -> None:
    """Raise UserError where one of two sides is preferred and both are the same."""
    if isinstance(first, str | Path | bytes) and first == second and any(judged["preferences"].values()):
        raise UserError("both sides are the same, so neither is better: call it a tie, or leave it out")


def ratings(row: Mapping[str, Any]) -> dict[str, float]:
    """The ratings of a sample by dimension."""
    several = row.get("ratings")
    return _numbers(several if several is not None else row.get("rating"), "rating")


def segments(cell: Any, text: str) -> list[Segment]:
    """The labelled segments of a text, in their order. Raises UserError for one that lies outside it."""
    found = sorted(starmap(_segment, map(_triple, cell or ())), key=lambda segment: segment.end)
    for one in found:
        if not 0 <= one.start < one.end <= len(text):
            raise UserError(
                f"segment [{one.start}, {one.end}] is not within the answer, which has {len(text)} characters"
            )
    if not found:
        raise UserError("no segment is labelled: `segments` is a list of [start, end, {kind: class}]")
    return found


# ---- inside


def _triple(cell: Any) -> Sequence[Any]:
    """A segment as a list, or as a table of one type holds it: a mapping."""
    cell = [cell.get(key) for key in ("start", "end", "labels")] if isinstance(cell, Mapping) else cell
    if not isinstance(cell, Sequence) or len(cell) != 3 or not isinstance(cell[2], Mapping):
        raise UserError(f"{str(cell)[:60]!r} is no segment: write [start, end, {{kind: class}}]")
    return cell


def _segment(start: Any, end: Any, labels: Mapping[str, Any]) -> Segment:
    if not isinstance(start, int) or not isinstance(end, int):
        raise UserError(f"a segment's start and end are counts of characters, these are {start!r} and {end!r}")
    told = {kind: label for kind, label in labels.items() if label is not None}
    if not told or not all(isinstance(label, str) for label in told.values()):
        raise UserError(f"segment [{start}, {end}] has the labels {dict(labels)}: name a class for one kind or more")
    return Segment(start, end, told)


def _preference(value: Any) -> float:
    known = _PREFERENCES.get(value) if isinstance(value, str) else value
    if isinstance(known, int | float) and not isinstance(known, bool) and known in (1, 0, -1):
        return float(known)
    raise UserError(
        f"{value!r} is no preference: it is first, second or tie (or 1, -1, 0), or null where there is none"
    )


def _numbers(said: Any, what: str) -> dict[str, float]:
    """Finite numbers by dimension, those that are null left out."""
    given = said if isinstance(said, Mapping) else {EVERY: said}
    found = {name: value for name, value in given.items() if value is not None}
    wrong = [v for v in found.values() if isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v)]
    if wrong:
        raise UserError(f"{wrong[0]!r} is no {what}: it is a number, or null where there is none")
    if not found:
        raise UserError(f"no {what}: give a number, or {{dimension: number}}")
    return {name: float(value) for name, value in found.items()}


def _checked(path: str, rows: Any, columns: Collection[str], read: Any) -> list[Any]:
    """What `read` makes of the label columns of each row; media are not touched. A wrong one is named by its row."""
    found = []
    for number, row in enumerate(narrowed(rows, columns), start=1):
        try:
            found.append(read(row))
        except UserError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
    return found


def _labelled(path: str, rows: Any, name: str, preset: Preset) -> tuple[list[Any], Callable[[Row], tuple[Any, Any]]]:
    """The judgements of rows in a known layout, of which labels alone are read, and how to tell its sides."""
    if preset.sides is None or preset.texts or not preset.labels:
        raise UserError(f"preset '{name}' is no layout of pictures or videos with labels of preference")
    known = list(rows[0]) if len(rows) else preset.columns
    if missing := [column for column in preset.columns if column not in known]:
        raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(known)}. Is preset right?")

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        for column, allowed in preset.labels.items():
            if row[column] not in allowed:
                raise UserError(f"column {column}: label out of range: {row[column]!r}")
        said = preset.said(row)
        if all(vote is None for vote in said.values()):  # nobody could say: such a row is part of the layout
            return {"preferences": {}, "strengths": {}, "annotator": ""}
        return judgement({"preferences": said})

    return _checked(path, rows, preset.labels, read), preset.sides


def _sides(path: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    try:
        return sides(rows[0]) if len(rows) else ("first", "second")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _some_decided(path: str, judged: Sequence[Mapping[str, Any]]) -> None:
    if judged and not any(value for one in judged for value in one["preferences"].values()):
        raise UserError(f"{path}: every pair is a tie, so nothing can be learned from them")
