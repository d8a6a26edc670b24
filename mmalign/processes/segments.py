"""Segments of a text, put beside the tokens that said it.

Offsets are of the ids themselves: what was generated need not be how the tokenizer would cut the same text.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from mmalign.errors import UserError

Span = tuple[int, int]
"""Where a segment begins and ends, as counts of characters from the beginning of its text."""
Decode = Callable[[Sequence[Sequence[int]]], list[str]]


def said(decode: Decode, ids: Sequence[int], text: str) -> list[int]:
    """How many characters of `text` were said after each of its tokens.

    A letter of several tokens is said with the last of them; until then it decodes to something else.
    """
    begun = decode([ids[: u + 1] for u in range(len(ids))])
    return list(accumulate((_shared(one, text) for one in begun), max))


def units_at(ends: Sequence[int], decode: Decode, ids: Sequence[int], text: str) -> list[int]:
    """The token that says the last character of each segment; the last of all for one that was never said."""
    if not ends:
        return []
    after = said(decode, ids, text)
    return [min(bisect_left(after, end), len(ids) - 1) for end in ends]


def within(spans: Sequence[Span], decode: Decode, ids: Sequence[int], text: str) -> Tensor:
    """`[U, S]`: 1 where a token says a character of a segment. Raises UserError where the tokens do not say its end."""
    # What is decoded has no space around it.
    left = len(text) - len(text.lstrip())
    after = said(decode, ids, text.strip())
    if spans and max(end for _, end in spans) > left + after[-1]:
        raise UserError(
            f"the model does not say '{text[left + after[-1] :][:30]}' in '{text[:60]}', where a segment ends: it was cut "
            "off, or the tokenizer changes it; set model.max_length higher if the model can, or leave the row out"
        )
    units = pairwise([0, *after])
    says = [[begin < end - left and start - left < over for start, end in spans] for begin, over in units]
    return torch.tensor(says, dtype=torch.float32).reshape(len(ids), len(spans))


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
