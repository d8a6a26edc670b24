"""What rows are labelled with, put beside what a model's heads say.

A label without a dimension holds for every head. One that a row lacks counts for nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.records import EVERY


def by_head(
    rows: Sequence[Mapping[str, float]], names: Sequence[str], like: Tensor, missing: float = torch.nan
) -> Tensor:
    """Labels as `[B, K]`. Raises UserError for a row whose labels are all of dimensions that have no head."""
    for row in rows:
        if row and EVERY not in row and not set(row) & set(names):
            told = ", ".join(f"'{name}'" + nearest(name, names) for name in row)
            raise UserError(f"a row is labelled in {told}; model.heads.names are {', '.join(names)}")
    return like.new_tensor([[row.get(name, row.get(EVERY, missing)) for name in names] for row in rows])


def class_indices(rows: Sequence[Mapping[str, str]], kinds: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Labels of N segments as `[N, K]` indices of classes, -1 where there is none. Raises UserError for another class."""
    for row in rows:
        if unknown := [f"'{label}'{nearest(label, classes)}" for label in row.values() if label not in classes]:
            raise UserError(f"a segment is labelled {', '.join(unknown)}; model.heads.classes are {', '.join(classes)}")
    # One segment may well have no label of these kinds, for its judge gave no verdict; of all it is a mistake.
    if rows and not any(set(row) & set(kinds) for row in rows):
        raise UserError(f"a segment is labelled in {', '.join(rows[0])}; model.heads.names are {', '.join(kinds)}")
    found = [[classes.index(row[kind]) if kind in row else -1 for kind in kinds] for row in rows]
    return torch.tensor(found, dtype=torch.long).reshape(len(rows), len(kinds))


def check_read(places: Tensor, ends: Sequence[Sequence[int]], samples: Sequence[Any]) -> None:
    """Raise UserError for a labelled segment that the model does not see the end of: its label would be lost."""
    for row, own, sample in zip(places[:, 1:], ends, samples, strict=True):
        if (seen := int((row >= 0).sum())) < len(own):
            raise UserError(
                f"the answer '{str(sample)[:60]}' is cut before its labelled segment {seen + 1} of {len(own)} ends: "
                "set model.max_length higher if the model can, or leave the row out"
            )
