"""What the columns of a row say: scores, strengths, and whether all that is needed is there."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmalign.errors import BadRow, UserError

RATED = ("scores", "strength")
"""Columns that tell how good the sides of a pair are."""


def scored(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A row's score, and its rivals' where it tells. Raises UserError for what is no finite number."""
    score, rivals = finite(row.get(column), column), row.get("rivals")
    if rivals is None:
        return {"score": score}
    if not isinstance(rivals, list | tuple) or not rivals:
        raise UserError("`rivals` holds the scores of all samples of the prompt, that of the row's own among them")
    return {"score": score, "rivals": [finite(one, "rivals") for one in rivals]}


def finite(cell: Any, column: str) -> float:
    """A cell as a number. Raises UserError for one that is none, or not finite."""
    try:
        found = float(cell)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"column '{column}' holds {cell!r}, which is no finite number: mend it, or leave the row out")
    return found


def check_alike(row: Mapping[str, Any], first: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise UserError where of these columns a row has another choice than the first: those of a batch must be alike."""
    for name in names:
        if (row.get(name) is None) != (first.get(name) is None):
            raise UserError(f"only some rows have '{name}': give it in all of them, or in none")


@contextmanager
def named(where: str) -> Iterator[None]:
    """Around what reads a row: what is wrong with it is a BadRow that names it."""
    try:
        yield
    except UserError as error:
        raise BadRow(f"{where}: {error}") from None


def check_filled(row: Mapping[str, Any], prompt: str, *columns: str) -> None:
    """Raise UserError where one of these columns holds nothing, or that of the prompt no text."""
    if missing := [name for name in columns if not row.get(name)]:
        raise UserError(f"no {', '.join(missing)}")
    if not isinstance(row.get(prompt), str):
        raise UserError(f"column '{prompt}' must hold text, got {row.get(prompt)!r}")


def rated(pair: Mapping[str, Any]) -> dict[str, Any]:
    """How good both sides are and by how much the chosen one is better, where the row tells. Raises UserError for what is no
    finite number.
    """
    if (scores := pair.get("scores")) is not None:
        if not isinstance(scores, list | tuple) or len(scores) != 2:
            raise UserError(f"`scores` holds two numbers, the chosen sample's and the rejected one's, got {scores!r}")
        chosen, rejected = (finite(one, "scores") for one in scores)
        return {"strength": chosen - rejected, "scores": scores}
    return {"strength": finite(pair["strength"], "strength")} if pair.get("strength") is not None else {}


def tied(row: Mapping[str, Any]) -> bool:
    """Whether a row says that neither side is better. A cell that is no number says nothing here; `rated` tells of it."""
    try:
        return rated(row).get("strength") == 0
    except UserError:
        return False


def narrowed(rows: Any, columns: Collection[str]) -> Any:
    """A table of which no other column is read, where that can be."""
    if not hasattr(rows, "select_columns"):
        return rows
    return rows.select_columns([name for name in rows.column_names if name in columns])
