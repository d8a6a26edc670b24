"""Rows of tokens, and what is shown in them, as a batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmalign.errors import UserError
from mmalign.records import Prompt

Row = Mapping[str, Tensor]
"""What a processor makes of one prompt, by transformers' names: `[1, T]` for each token, other shapes for what is shown."""

PER_TOKEN = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


def distinct(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """Each prompt once, and which of them stands where. Equal ones that were made apart count as several."""
    found = {id(prompt): prompt for prompt in prompts}
    number = {one: i for i, one in enumerate(found)}
    return list(found.values()), [number[id(prompt)] for prompt in prompts]


def joined(rows: Sequence[Row], padding: int, left: bool = False) -> dict[str, Tensor]:
    """Rows one below the other, as long as the longest, padded on one side; what is shown one after the other.

    padding: the id that fills `input_ids`; the rest is filled with 0, which models take for nothing.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: _tokens([row.get(name, torch.zeros_like(row["input_ids"])) for row in rows], fill, left)
        if name in PER_TOKEN
        else _shown(name, [row[name] for row in rows if name in row])
        for name in names
        for fill in [padding if name == "input_ids" else 0]
    }


def followed(row: Row, ids: Sequence[int], types: int) -> dict[str, Tensor]:
    """A row with an answer behind it. types: the `token_type_ids` of answers."""
    said = torch.tensor([ids], dtype=torch.long).reshape(1, -1)
    fills = {"attention_mask": 1, "token_type_ids": types}
    tails = {name: said if name == "input_ids" else torch.full_like(said, fills.get(name, 0)) for name in PER_TOKEN}
    return {name: torch.cat([value, tails[name]], 1) if name in PER_TOKEN else value for name, value in row.items()}


def _tokens(values: Sequence[Tensor], fill: int, left: bool) -> Tensor:
    width = max(value.shape[1] for value in values)
    missing = [width - value.shape[1] for value in values]
    sides = [(count, 0) if left else (0, count) for count in missing]
    return torch.cat([pad(value, side, value=fill) for value, side in zip(values, sides, strict=True)])


def _shown(name: str, values: Sequence[Tensor]) -> Tensor:
    """Pictures, or what there is by picture, filled up with 0 where another one has more tiles or is larger."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if name == "pixel_values_videos" and any(list(value.shape[1:]) != largest for value in values):
        raise UserError(
            f"this model reads videos of a batch together, which needs one number of frames, but these have "
            f"{', '.join(str(value.shape[1]) for value in values)}: give as many frames for each, or set "
            "trainer.batch_size=1"
        )
    return torch.cat([pad(value, _missing(value, largest)) for value in values])


def _missing(value: Tensor, largest: Sequence[int]) -> list[int]:
    """What `pad` is to add, last dimension first."""
    pairs = zip(reversed(value.shape[1:]), reversed(largest), strict=True)
    return [side for size, full in pairs for side in (0, full - size)]
