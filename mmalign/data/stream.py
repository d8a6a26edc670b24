"""Rows of a file one after the other, for data larger than memory; a row that cannot be read is told, not raised.

Bytes that are not UTF-8 arrive as lone surrogates, so that the row, and which of its columns it is, can be named.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.errors import UserError

_CHUNK = 1 << 20
_LARGEST = 1 << 26
"""Characters that one object of a .json file may have."""


class Line(NamedTuple):
    """One row. number: its line in a .jsonl or .txt file, else counted from 1. row: None when `reason` says why."""

    number: int
    row: dict[str, Any] | None
    reason: str = ""


def lines(path: Path) -> Iterator[Line]:
    """The rows of a .jsonl, .json, .csv, .parquet or .txt file. Raises UserError when it is none of these."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix not in _READERS:
        raise UserError(f"{path}: data is read from {', '.join(_READERS)}, not from {path.suffix or 'such files'}")
    return _READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[Line]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield _parsed(number, text)


def _parsed(number: int, text: str) -> Line:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return Line(number, None, f"not JSON ({error.msg})")
    if isinstance(row, dict):
        return Line(number, row)
    return Line(number, None, f"a row must be a JSON object, this is {type(row).__name__}")


def _json(path: Path) -> Iterator[Line]:
    """The objects of one long list."""
    decoder, number = json.JSONDecoder(), 0
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        buffer = file.read(_CHUNK).lstrip()
        if not buffer.startswith("["):
            yield Line(1, None, "must be a list of objects")
            return
        buffer = buffer[1:]
        while True:
            buffer = buffer.lstrip(", \t\r\n")
            if buffer.startswith("]"):
                return
            try:
                row, end = decoder.raw_decode(buffer)
            except json.JSONDecodeError as error:
                more = file.read(_CHUNK)
                if not more or len(buffer) > _LARGEST:
                    yield Line(number + 1, None, f"not JSON ({error.msg}); nothing after it was read")
                    return
                buffer += more
                continue
            number, buffer = number + 1, buffer[end:]
            yield Line(number, row) if isinstance(row, dict) else Line(number, None, "a row must be a JSON object")


def _csv(path: Path) -> Iterator[Line]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            if None in row:
                yield Line(number, None, "has more cells than the header")
            else:
                yield Line(number, {name: cell for name, cell in row.items() if cell is not None})


def _parquet(path: Path) -> Iterator[Line]:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    from pyarrow import ArrowInvalid

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file ({error})") from None
    number = 0
    for batch in file.iter_batches(batch_size=64):
        for i in range(batch.num_rows):
            number += 1
            yield Line(number, {name: _cell(column[i]) for name, column in zip(batch.schema.names, batch, strict=True)})


def _cell(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")


def _txt(path: Path) -> Iterator[Line]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield Line(number, {"prompt": text.strip()})


_READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}
