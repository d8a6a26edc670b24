"""The pictures of a report: for each prompt and seed what the model made before and after, and of videos the contact sheets;
embedded in the page."""

import base64
import math
import mimetypes
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmalign.builtin.files import step_name
from mmalign.report.reading import Record, Rows

TINY = 128
"""Pictures narrower than this many pixels are shown with their pixels, not blurred."""


@dataclass(frozen=True)
class Score:
    """A reward's score of one picture. change: 1 or -1 when it is higher or lower than before."""

    name: str
    text: str
    change: int


@dataclass(frozen=True)
class Picture:
    """One medium. kind: "image" or "video". source: a data URI. first: whether the untouched model made it."""

    label: str
    first: bool
    kind: str
    source: str
    tiny: bool
    scores: Sequence[Score]


@dataclass(frozen=True)
class Card:
    """One prompt and seed, and what was made of it before and after training."""

    prompt: str
    seed: int
    before: list[Picture] = field(default_factory=list)
    after: list[Picture] = field(default_factory=list)


def cards(records: Sequence[Record], labels: Sequence[str]) -> list[Card]:
    """A card a prompt and seed, in the order in which they were sampled. labels: what to call the runs."""
    found: dict[tuple[str, int], Card] = {}
    for record, label in zip(records, labels, strict=True):
        for key, picture in _pictures(record, label, len(records) == 1):
            card = found.setdefault((key.prompt, key.seed), key)
            (card.before if picture.first else card.after).append(picture)
    return [replace(card, before=_told_apart(card.before)) for card in found.values()]


def sheets(records: Sequence[Record], labels: Sequence[str]) -> list[Picture]:
    """The contact sheets of videos: some frames of each in a row, which tell more at a glance than players do."""
    found = [
        sheet
        for record, label in zip(records, labels, strict=True)
        for folder, name, rows in _looks(record, label, len(records) == 1)
        if any((mimetypes.guess_type(row["sample"])[0] or "").startswith("video/") for row in rows)
        if (sheet := _picture(folder / "grid.png", name, folder.name == step_name(0), {}, {})) is not None
    ]
    before = [one for one in found if one.first]
    return [*(_told_apart(before) if before else ()), *(one for one in found if not one.first)]


def _told_apart(before: list[Picture]) -> list[Picture]:
    """Runs of one base model begin with the very same picture, which is shown once and belongs to no run."""
    unique = list({picture.source: picture for picture in reversed(before)}.values())[::-1]
    return [replace(unique[0], label="before")] if len(unique) == 1 else unique


def _pictures(record: Record, label: str, alone: bool) -> Iterator[tuple[Card, Picture]]:
    """Every picture of the first and of the last time that there are any."""
    before = {(row["prompt"], row["seed"]): row["scores"] for row in record.samples.get(0, [])}
    for folder, name, rows in _looks(record, label, alone):
        for row in rows:
            key = (row["prompt"], row["seed"])
            first = folder.name == step_name(0)
            picture = _picture(folder / row["sample"], name, first, row["scores"], before.get(key, {}))
            if picture is not None:
                yield Card(*key), picture


def _looks(record: Record, label: str, alone: bool) -> Iterator[tuple[Path, str, Rows]]:
    """Folder, name and rows of what was sampled before training, and after it or, where nothing trained, under guidance."""
    samples = record.folder / "samples"
    for step in sorted({0, max(record.samples, default=0)} & set(record.samples)):
        name = (f"after {step} steps" if alone else label) if step else f"before {label}"
        yield samples / step_name(step), name, record.samples[step]
    if record.guided:
        yield samples / "guided", "guided" if alone else label, record.guided


def _picture(
    path: Path, label: str, first: bool, scores: Mapping[str, Any], before: Mapping[str, Any]
) -> Picture | None:
    """The medium in `path`, or None when it is gone or no browser shows its kind."""
    media = mimetypes.guess_type(path.name)[0] or ""
    kind = media.partition("/")[0]
    if kind not in ("image", "video") or not path.is_file():
        return None
    content = path.read_bytes()
    source = f"data:{media};base64,{base64.b64encode(content).decode()}"
    shown = [_score(name, value, before.get(name)) for name, value in scores.items()]
    return Picture(label, first, kind, source, _is_tiny(content), shown)


def _score(name: str, value: float | None, before: float | None) -> Score:
    if value is None:
        return Score(name, "unscored", 0)
    change = 0 if before is None or value == before else int(math.copysign(1, value - before))
    return Score(name, f"{value:.0f}" if value == int(value) else f"{value:#.3g}", change)


def _is_tiny(content: bytes) -> bool:
    """Whether this is a PNG whose header says that it is narrow."""
    return content.startswith(b"\x89PNG") and int(struct.unpack(">I", content[16:20])[0]) < TINY
