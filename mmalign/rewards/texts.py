"""Rewards of texts that need no model: how long a response is, and whether it has a form."""

import re
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Samples


class Length:
    """Whether a response stays short: 0 up to `most - slack`, from there in a line down to -1 at `most`, and -1 beyond.

    The soft penalty of DAPO (arXiv:2503.14476), which counts tokens.

    most: the length from which it is -1. slack: over how much of that it falls. unit: what is counted; words are what white
    space divides.
    """

    def __init__(self, most: PositiveInt, slack: NonNegativeInt = 0, unit: Literal["words", "characters"] = "words"):
        if slack > most:
            raise UserError(f"slack is {slack}, which is more than most, {most}")
        self.most = most
        self.slack = slack
        self.unit = unit

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]` in [-1, 0]."""
        counts = [len(text.split() if self.unit == "words" else text) for text in samples.responses]
        return torch.tensor([self._penalty(count) for count in counts])

    def _penalty(self, count: int) -> float:
        over = count - (self.most - self.slack)
        if over <= 0:
            return 0.0
        return -min(1.0, over / self.slack) if self.slack else -1.0


class Regex:
    """Whether a response has a form: 1 where the pattern is found, else 0.

    pattern: a Python regular expression; `(?i)` before it ignores case, `(?s)` lets a dot be a new line.
    whole: whether the whole response must match, but for white space around it.
    """

    def __init__(self, pattern: str, whole: bool = False):
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"pattern {pattern!r} is no regular expression: {error}") from None
        self.whole = whole

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`, 0 or 1."""
        return torch.tensor([float(self._matches(text)) for text in samples.responses])

    def _matches(self, text: str) -> bool:
        found = self.pattern.fullmatch(text.strip()) if self.whole else self.pattern.search(text)
        return found is not None
