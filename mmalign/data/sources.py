"""Read prompts and preference pairs from files or the hub.

Text files hold one prompt a line; jsonl, csv and parquet go through Hugging Face `datasets`. Media are paths relative to the
file that names them, or bytes. Rows are made when they are asked for, so pictures stay on the disk until then.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmalign.data.cells import RATED, check_alike, check_filled, finite, named, rated, scored
from mmalign.data.presets import preset as preset_of
from mmalign.data.stream import lines
from mmalign.errors import BadRow, UserError, nearest
from mmalign.parts import Row
from mmalign.records import Masked, Media, Prompt

PLAIN = "{prompt}"
"""The template of a prompt that is asked as it is."""

_LOADERS = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


class Prompts:
    """Prompts from a file.

    path: a .txt file with a prompt a line, or a .jsonl, .csv or .parquet file. column: which column holds the text.
    template: what the model is asked; `{prompt}` is the text.
    """

    def __init__(self, path: str, column: str = "prompt", template: str = PLAIN):
        self._prompts = [conditioned(Prompt(text), template, {}) for text in _texts(Path(path), column)]
        if not self._prompts:
            raise UserError(f"{path} holds no prompts: write one a line")

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Row:
        return {"prompt": self._prompts[index]}


class SampleRows:
    """Prompts with the picture (or video) that answers each, for supervised objectives.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. column, sample: the columns with the prompt
    and with the medium; a column `mask` holds the picture that is white where the medium counts. split: which split, for a
    data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """

    def __init__(
        self,
        path: str,
        column: str = "prompt",
        sample: str = "sample",
        split: str = "train",
        template: str = PLAIN,
    ):
        self._path = path
        self._table = table(path, split)
        self._folder = Path(path).parent
        self._column, self._sample, self._template = column, sample, template
        self._require(path, column, sample)

    def _require(self, path: str, *columns: str) -> None:
        """Raise UserError when the file has rows but not these columns."""
        known = list(self._table[0]) if len(self._table) else columns
        if missing := set(columns) - set(known):
            raise UserError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(known)}")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        row, where = self._table[index], self._where(index)
        with named(where):
            check_filled(row, self._column, self._sample)
        shown = Prompt(row[self._column], images=pictures(row, self._folder))
        prompt = conditioned(shown, self._template, row)
        return {"prompt": prompt, "sample": side(row, self._sample, self._folder, where)}

    def _where(self, index: int) -> str:
        """What messages call a row."""
        return f"{self._path}: row {index + 1}"


class Pairs:
    """Preference pairs: a prompt and two pictures (or videos) of which the first is preferred. Ties are left out.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Rows with `strength` (how much better the
    first is) or `scores` (of both) keep it; `images` are what the prompt shows, for example the first frame
    of a video; `chosen_mask`, `rejected_mask`, or `mask` for both, are pictures that are white where a side counts.
    preset: the layout: "mmalign" (prompt, chosen, rejected), "pick-a-pic", "hpdv2" or "videoalign".
    split: which split, for a data set on the hub.
    """

    def __init__(self, path: str, preset: str = "mmalign", split: str = "train"):
        self._path = path
        self._table = table(path, split)
        self._folder = Path(path).parent
        self._preset = preset_of(preset)
        if self._preset.sides is None or self._preset.texts:
            raise UserError(f"preset '{preset}' is no layout of pairs of pictures or videos")
        self._rows = list(self._decided())
        if not self._rows:
            raise UserError(f"{path} holds no pair with a preference")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        row = self._table[self._rows[index]]
        where = f"{self._path}: row {self._rows[index] + 1}"
        with named(where):
            if missing := [column for column in self._preset.columns if column not in row]:
                raise UserError(f"no {', '.join(missing)}")
            pair = self._preset.pair(self._preset.unfold(row))
            check_filled(pair, "prompt", "prompt", "chosen", "rejected")
        if pair["chosen"] == pair["rejected"]:
            what = pair["chosen"] if isinstance(pair["chosen"], str) else "the same bytes"
            raise BadRow(f"{where}: both sides are {what}, so neither is better")
        sides = {name: side({**row, **pair}, name, self._folder, where) for name in ("chosen", "rejected")}
        return {"prompt": Prompt(pair["prompt"], images=pictures(row, self._folder)), **sides, **rated(pair)}

    def _decided(self) -> Iterator[int]:
        """Indices of the rows with a preference. Reads the columns with labels alone, never the pictures."""
        known = list(self._table[0]) if len(self._table) else self._preset.columns
        if missing := [c for c in self._preset.columns if c not in known]:
            raise UserError(
                f"{self._path}: no column {', '.join(missing)}; it has {', '.join(known)}. Is preset right?"
            )
        # Rows of a .jsonl need not have the same columns.
        told = [name for name in self._preset.kept if name in known or isinstance(self._table, list)]
        names = [*self._preset.labels, *told]
        columns = [_column(self._table, name) for name in names]
        first: Row | None = None
        for i in range(len(self._table)):
            label = {name: column[i] for name, column in zip(names, columns, strict=True)}
            if wrong := [n for n, allowed in self._preset.labels.items() if label[n] not in allowed]:
                raise BadRow(f"{self._path}: row {i + 1}, column {wrong[0]}: label out of range: {label[wrong[0]]!r}")
            with named(f"{self._path}: row {i + 1}"):
                rated(label)
                first = label if first is None else first
                check_alike(label, first, RATED)
            if self._preset.winner(label) != 0:
                yield i


class LabelledRows(SampleRows):
    """Prompts with a picture (or video) that is good or bad, for objectives without pairs.

    path, column, sample, split: as for samples. label: the column that is true, or above 0, for good ones.
    """

    def __init__(
        self, path: str, column: str = "prompt", sample: str = "sample", label: str = "label", split: str = "train"
    ):
        super().__init__(path, column, sample, split)
        self._require(path, label)
        self._label = label

    def __getitem__(self, index: int) -> Row:
        with named(self._where(index)):
            label = finite(self._table[index].get(self._label), self._label)
        return {**super().__getitem__(index), "label": label}


class ScoredRows(SampleRows):
    """Prompts with a picture (or video) and how good it is, for objectives that weigh rows.

    path, column, sample, split, template: as for samples. score: the column with a number. Rows with `rivals`, the scores
    of all samples of the same prompt, keep them.
    """

    def __init__(
        self,
        path: str,
        column: str = "prompt",
        sample: str = "sample",
        score: str = "score",
        split: str = "train",
        template: str = PLAIN,
    ):
        super().__init__(path, column, sample, split, template)
        self._require(path, score)
        self._score = score
        self._first = {"rivals": self._table[0].get("rivals")} if len(self._table) else {}

    def __getitem__(self, index: int) -> Row:
        row = self._table[index]
        with named(self._where(index)):
            check_alike(row, self._first, ("rivals",))
            told = scored(row, self._score)
        return {**super().__getitem__(index), **told}


def conditioned(prompt: Prompt, template: str, row: Mapping[str, Any]) -> Prompt:
    """The prompt with the text that `template` makes of it and of a row's columns. Raises UserError for an unknown one."""

    def cell(match: re.Match[str]) -> str:
        name = match[1]
        if name != "prompt" and name not in row:
            raise UserError(f"template: the row has no column '{name}'{nearest(name, row)}")
        return prompt.text if name == "prompt" else str(row[name])

    return replace(prompt, text=re.sub(r"\{(\w+)\}", cell, template))


def _column(rows: Sequence[dict[str, Any]], name: str) -> Sequence[Any]:
    """One column of a table, of which nothing else is read."""
    return [row.get(name) for row in rows] if isinstance(rows, list) else rows.select_columns([name])[name]  # type: ignore[attr-defined]


def medium(value: Any, folder: Path) -> Media:
    """A cell of a table as `Media`: bytes stay, a path is relative to `folder`."""
    if isinstance(value, dict):  # how `datasets` holds a picture that is not decoded
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | Path | bytes):
        raise UserError(f"{str(value)[:60]!r} is no picture or video: name a file, or give its bytes")
    return value if isinstance(value, bytes) else folder / value


def pictures(row: Mapping[str, Any], folder: Path) -> tuple[Media, ...]:
    """What a prompt shows: the cells of the column `images`, where there is one."""
    cells = row.get("images")
    if isinstance(cells, str | bytes | Mapping):
        raise UserError(f'`images` is a list of pictures, such as ["a.png"], not {str(cells)[:60]!r}')
    return tuple(medium(cell, folder) for cell in (cells if cells is not None else ()))


def side(row: Mapping[str, Any], column: str, folder: Path, where: str) -> Media | Masked:
    """The medium in a column, under the mask in `<column>_mask`, or in `mask` for all sides, where the row has one.

    where: which row it is.
    """
    names = (f"{column}_mask", "mask")
    found = next(((name, row[name]) for name in names if row.get(name) is not None), None)
    made = medium(row[column], folder)
    return made if found is None else Masked(made, medium(found[1], folder), f"{where}: {found[0]}")


def table(path: str, split: str = "train") -> Sequence[dict[str, Any]]:
    """The rows of a file or of a data set on the hub. Raises UserError when there is neither."""
    file = Path(path)
    if file.suffix == ".jsonl" and file.is_file():
        return list(_jsonl(file))
    try:
        from datasets import load_dataset

        if file.is_file() and file.suffix in _LOADERS:
            return _undecoded(load_dataset(_LOADERS[file.suffix], data_files=path, split="train"))
        if file.suffix or file.is_absolute() or "/" not in path:
            raise UserError(f"no such file: {path}")
        return _undecoded(load_dataset(path, split=split))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot read {path} ({reason}): is it a file here, or a data set id and the hub in reach?"
        ) from error


def _texts(path: Path, column: str) -> Iterator[str]:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        yield from (line.strip() for line in lines if line.strip())
        return
    for number, row in enumerate(table(str(path)), start=1):
        if row.get(column) is None:
            raise UserError(f"{path}: row {number} has no column '{column}'{nearest(column, set(row) - {column})}")
        yield str(row[column])


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, row, reason in lines(path):
        if row is None:
            raise BadRow(f"{path}:{number}: {reason}")
        yield row


def _undecoded(rows: Any) -> Sequence[dict[str, Any]]:
    """Rows of `datasets` whose pictures, and lists of such, stay bytes or paths."""
    from datasets import Image, List

    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    found: Sequence[dict[str, Any]] = rows
    return found
