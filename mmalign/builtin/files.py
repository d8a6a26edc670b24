"""Small files of a run folder: strict JSON, one object a line, written aside and then renamed."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmalign.errors import UserError


def step_name(step: int) -> str:
    """What belongs to a step is called `step-000100`; names sort as numbers do."""
    return f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step in such a name."""
    return int(path.stem.removeprefix("step-"))


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: numbers in full precision; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def add(path: Path, **entries: Any) -> None:
    """Put entries into a file of one JSON object, beside what else is there."""
    others = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(path, to_json({**others, **entries}, indent=2) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines whole or not at all."""
    write(path, "".join(to_json(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines; an absent file holds none. A last line torn by a crash is left out, any other is a UserError."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}:{number}: not JSON ({error.msg})") from None
    return rows


def scores_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """By reward name, the scores of evaluation rows in their order; NaN where a sample went unscored (null)."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        for name, score in row["scores"].items():
            scores.setdefault(name, []).append(math.nan if score is None else float(score))
    return scores


def counts_of(rows: Iterable[Mapping[str, Any]], metric: str) -> list[dict[str, float] | None]:
    """What a metric counted of evaluation rows, in their order; None where it could not."""
    return [row["counts"][metric] for row in rows]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
