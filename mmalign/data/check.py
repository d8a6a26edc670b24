"""Read a data set once, row by row, and say what is wrong with each: file, row, column and reason."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from filecmp import cmp
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mmalign.data.presets import Preset
from mmalign.data.sources import medium
from mmalign.data.stream import lines
from mmalign.data.texts import text_pair
from mmalign.errors import BadRow, UserError
from mmalign.parts import Row, Source
from mmalign.records import Masked, Media, Prompt

Look = Callable[[Path], Any]
"""Opens a medium: its pixels or text, or None when nobody reads such files. Raises UserError when it cannot be read."""

_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*": ".tif"}


class BadCell(NamedTuple):
    """What is wrong with a row. row: its line or number. column: "" when it is the whole row."""

    row: int
    column: str
    reason: str


@dataclass
class Range:
    """The least, the most and the mean of what was seen."""

    least: float = float("inf")
    most: float = float("-inf")
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """See one more."""
        self.least, self.most = min(self.least, value), max(self.most, value)
        self.total, self.count = self.total + value, self.count + 1

    def plain(self) -> dict[str, float]:
        """As JSON holds it."""
        return {"min": self.least, "max": self.most, "mean": self.total / self.count}


@dataclass
class Summary:
    """What a data set holds. bad: how many rows are. ties: rows without a preference, which training leaves out.

    lengths: characters of each column of words. sizes: how many pictures have each size. unread: by kind of file, how many
    media no installed plugin can look into.
    """

    rows: int = 0
    bad: int = 0
    ties: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, Range] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, the ten most frequent sizes first."""
        lengths = {column: seen.plain() for column, seen in self.lengths.items()}
        sizes = dict(self.sizes.most_common(10))
        return {**vars(self), "lengths": lengths, "sizes": sizes, "unread": dict(self.unread)}


class Checker:
    """Checks rows of one file and remembers what it saw in `summary`.

    folder: what paths are relative to. look: opens media.
    """

    def __init__(self, preset: Preset, folder: Path, look: Look):
        self.preset = preset
        self.folder = folder
        self.look = look
        self.summary = Summary()
        self._lengths: list[int] = []  # of the row's videos, in frames

    def file(self, path: Path) -> Iterator[BadCell]:
        """Everything that is wrong with a file, as it is found."""
        for line in lines(path):
            found = [("", line.reason)] if line.row is None else list(self.row(line.row))
            self.summary.rows += 1
            self.summary.bad += bool(found)
            yield from (BadCell(line.number, column, reason) for column, reason in found)

    def row(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Column and reason of everything that is wrong with a row."""
        try:
            row = self.preset.unfold(row)
        except ValueError as error:
            yield "text", f"not JSON ({error})"
            return
        self._lengths = []
        for name, value in row.items():
            self.summary.columns.setdefault(name, type(value).__name__)
            if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
                yield name, "not UTF-8"
        cells = [*self._words(row), *self._media(row), *self._masks(row), *self._labels(row)]
        if not cells and self.preset.sides is not None:
            cells = list(self._pair(row))
        if not cells and self.preset.read is not None:
            cells = list(self._read(row))
        yield from cells

    def _words(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name in self.preset.words:
            value = row.get(name)
            if name not in row:
                yield name, _missing(row)
            elif not value or (isinstance(value, str) and not value.strip()):
                yield name, "empty text"
            elif isinstance(value, str):
                self.summary.lengths.setdefault(name, Range()).add(len(value))
            elif not (self.preset.texts and isinstance(value, list)):
                yield name, f"must be text, this is {type(value).__name__}"

    def _media(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name in self.preset.media:
            if name not in row:
                yield name, _missing(row)
                continue
            for value in row[name] if isinstance(row[name], list) else [row[name]]:
                if reason := self._medium(value):
                    yield name, reason

    def _medium(self, value: Any) -> str | None:
        """What is wrong with one picture or video."""
        if not value or (isinstance(value, dict) and not (value.get("bytes") or value.get("path"))):
            return "holds no picture"
        if not isinstance(value, str | bytes | dict | Path):
            return f"must be a path or bytes, this is {type(value).__name__}"
        try:  # a path stands where it is, a text is relative
            found = seen(value if isinstance(value, Path) else medium(value, self.folder), self.look)
        except UserError as error:
            return str(error)
        if found is None:
            self.summary.unread[Path(value).suffix if isinstance(value, str | Path) else "bytes"] += 1
        elif hasattr(found, "shape"):
            self.summary.sizes["x".join(str(side) for side in (found.shape[-1], found.shape[-2]))] += 1
            if 0 in found.shape:
                return "zero-size picture"
            self._lengths += found.shape[:1] if found.ndim == 4 else []
        return None

    def _masks(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        names = ["mask", *(f"{name}_mask" for name in self.preset.media)]
        for name in names if not self.preset.texts else ():
            try:
                if row.get(name) is not None and blank(medium(row[name], self.folder), self.look):
                    yield name, "the mask is 0 everywhere"
            except UserError as error:
                yield name, str(error)

    def _labels(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, allowed in self.preset.labels.items():
            if name not in row:
                yield name, _missing(row)
            elif label_of(row[name]) not in allowed:
                yield name, f"label out of range: {row[name]!r}, not one of {', '.join(map(str, allowed))}"

    def _pair(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What is wrong between the sides of a row whose cells are right."""
        assert self.preset.sides is not None
        try:
            first, second = self.preset.sides(row)
            if self.preset.texts:
                text_pair(self.preset.pair(row), self.folder)
        except (UserError, IndexError) as error:
            yield "", str(error)
            return
        names = ", ".join(self.preset.words[1:] if self.preset.texts else self.preset.media)
        if first == second or (not self.preset.texts and _same(first, second, self.folder)):
            yield names, "identical sides"
        if len(set(self._lengths)) > 1:
            told = " and ".join(map(str, self._lengths))
            yield (
                names,
                f"videos of {told} frames: cut them to one length, or which is better may be told by that alone",
            )
        if self.preset.winner(row) == 0:
            self.summary.ties += 1
            if not self.preset.labels:  # a layout that labels its rows may call one a tie; here one side was chosen
                yield "scores" if "scores" in row else "strength", "tie: neither side is better, but one is chosen"

    def _read(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What is wrong with the labels and answers of a row whose cells are right, and with what they name."""
        assert self.preset.read is not None
        try:
            told = self.preset.read(row, self.folder)
        except UserError as error:
            yield "", str(error)
            return
        for name, cell in told.items():
            for one in shown(cell) if isinstance(cell, Prompt) else [cell]:
                if isinstance(one, Path | bytes) and (reason := self._medium(one)):
                    yield "images" if isinstance(cell, Prompt) else name, reason
        self.summary.ties += "preferences" in told and not any(told["preferences"].values())


class Readable:
    """Rows whose pictures and videos are opened when a row is asked for; one that cannot be is a BadRow."""

    def __init__(self, rows: Source, look: Look):
        self.rows = rows
        self.look = look

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        try:
            for cell in media_in(row):
                if isinstance(cell, Path | bytes):
                    seen(cell, self.look)
            for cell in row.values():
                if isinstance(cell, Masked) and blank(cell.mask, self.look):
                    raise UserError(f"{cell.name} is 0 everywhere")
        except UserError as error:
            raise BadRow(f"row {index + 1}: {error}") from None
        return row


def media_in(row: Row) -> Iterator[Media]:
    """Every picture or video of a row, the masks and what prompts show included."""
    for cell in row.values():
        if isinstance(cell, Prompt):
            yield from shown(cell)
        elif isinstance(cell, Masked):
            yield from (cell.media, cell.mask)
        else:
            yield cell


def blank(mask: Media, look: Look) -> bool:
    """Whether a mask leaves nothing."""
    pixels = mask if isinstance(mask, Tensor) else seen(mask, look)
    return isinstance(pixels, Tensor) and not pixels.any()


def shown(prompt: Prompt) -> list[Media]:
    """A prompt's pictures, and the frames of its videos."""
    return [*prompt.images, *(frame for video in prompt.videos for frame in video)]


def seen(value: Media, look: Look) -> Any:
    """A medium, opened. None when no plugin reads its kind. Raises UserError when it is absent, empty or broken."""
    if isinstance(value, bytes):
        with tempfile.NamedTemporaryFile(suffix=suffix_of(value)) as file:
            file.write(value)
            file.flush()
            try:
                return look(Path(file.name))
            except UserError as error:
                raise UserError(str(error).replace(file.name, f"in {len(value)} bytes of data")) from None
    path = Path(str(value))
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise UserError(f"empty file: {path}")
    return look(path)


def suffix_of(data: bytes) -> str:
    """The ending that a file of these bytes has, by how they begin; that of a picture when nothing tells."""
    return next((suffix for begin, suffix in _MAGIC.items() if data.startswith(begin)), ".jpg")


def label_of(value: Any) -> Any:
    """A label as written down: files without types hold numbers as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _missing(row: Mapping[str, Any]) -> str:
    return f"missing column; the row has {', '.join(map(str, row))}"


def _same(first: Any, second: Any, folder: Path) -> bool:
    one, other = medium(first, folder), medium(second, folder)
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return cmp(Path(str(one)), Path(str(other)), shallow=False)
