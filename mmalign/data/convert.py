"""Write a data set of a known layout in mmalign's own: a `pairs.jsonl`, pictures that were bytes in `media/` beside it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmalign.data.check import BadCell, Checker
from mmalign.data.media import stored
from mmalign.data.sources import medium
from mmalign.data.stream import lines
from mmalign.errors import UserError


def convert(path: Path, checker: Checker, out: Path) -> Iterator[BadCell]:
    """Convert row by row; yields what is wrong with the rows that are left out. Ties are left out and counted.

    The manifest is written aside and renamed at the end, so that half of one is never taken for the whole.
    """
    if checker.preset.sides is None:
        raise UserError(
            "only pairs are converted: prompts, samples and labelled rows are in mmalign's layout as they are"
        )
    manifest = out / "pairs.jsonl"
    if manifest.exists():
        raise UserError(f"{manifest} is there already: choose another --out")
    (out / "media").mkdir(parents=True, exist_ok=True)
    partial = manifest.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as file:
        for line in lines(path):
            found = [("", line.reason)] if line.row is None else list(checker.row(line.row))
            checker.summary.rows += 1
            checker.summary.bad += bool(found)
            yield from (BadCell(line.number, column, reason) for column, reason in found)
            if line.row is not None and not found:
                file.writelines(_converted(line.row, checker, out))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, manifest)


def _converted(row: Mapping[str, Any], checker: Checker, out: Path) -> Iterator[str]:
    """A row as one line; none for a tie."""
    row = checker.preset.unfold(row)
    if checker.preset.winner(row) == 0:
        return
    pair = checker.preset.pair(row)
    shown = ("images",) if checker.preset.texts else ("chosen", "rejected")
    for name in shown:
        if isinstance(cells := pair.get(name), list):
            pair[name] = [stored(medium(cell, checker.folder), out) for cell in cells]
        elif cells is not None:
            pair[name] = stored(medium(cells, checker.folder), out)
    yield json.dumps(pair, ensure_ascii=False) + "\n"
