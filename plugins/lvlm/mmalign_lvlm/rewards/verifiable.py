"""Rewards that are rules, for answers whose truth is known: Visual-RFT. Liu et al. 2025, arXiv:2503.01785.

The truth comes with the prompt: in its column `boxes`, boxes x1, y1, x2, y2; or in its column `answer`, a text. The format of an
answer is a `regex` reward's: the paper's is `(?s)<think>.*</think>\\s*<answer>.*</answer>` with `whole: true`.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples, Scores
from mmalign_lvlm.rewards import boxes
from mmalign_lvlm.rewards.boxes import Box, Said


class BoxOverlap:
    """How well the boxes of an answer cover those that are there: R_iou (`mmalign_lvlm.rewards.boxes`).

    frame: what an answer's coordinates count the picture's width and height as, for example 1000 for Qwen2-VL; the prompt then
        has a column `size`, the width and height of the picture in the units of its boxes. By default both have one unit.
    matched: whether a box must cover more than half of the one that is there to count at all. Without, of one box that is
        there and one that is said it is their plain IoU.
    """

    def __init__(self, frame: PositiveFloat | None = None, matched: bool = True):
        self.frame = frame
        self.matched = matched

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` in 0 to 1. dimensions: `confidence`, R_conf; `boxes`, how many are said; `read`, whether the answer could be."""
        pairs = [
            (self._said(prompt, text), there(prompt))
            for prompt, text in zip(samples.prompts, samples.responses, strict=True)
        ]
        return Scores(
            torch.tensor([self._value(*pair) for pair in pairs]),
            {
                "confidence": torch.tensor([boxes.r_confidence(*pair) for pair in pairs]),
                "boxes": torch.tensor([float(len(told or ())) for told, _ in pairs]),
                "read": torch.tensor([float(told is not None) for told, _ in pairs]),
            },
        )

    def _said(self, prompt: Prompt, text: str) -> list[Said] | None:
        """The boxes of an answer in the units of the prompt's."""
        told = boxes.said(text)
        if told is None or self.frame is None:
            return told
        width, height = (side / self.frame for side in _size(prompt))
        return [Said((x1 * width, y1 * height, x2 * width, y2 * height), sure) for (x1, y1, x2, y2), sure in told]

    def _value(self, told: Sequence[Said] | None, there: Sequence[Box]) -> float:
        if self.matched or told is None or len(told) != 1 or len(there) != 1:
            return boxes.r_iou(told, there)
        return boxes.iou(told[0].box, there[0])


class BoxConfidence(BoxOverlap):
    """Whether an answer is sure of its boxes where they are right and unsure where they are wrong: R_conf.

    frame, matched: as of `iou`.
    """

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` in 0 to 1; the dimensions of `iou`."""
        dimensions = super().__call__(samples).dimensions
        return Scores(dimensions["confidence"], dimensions)


class ExactAnswer:
    """Whether an answer is the right one, but for capitals, punctuation and white space; an empty one never is.

    within: whether it is also right where one of both stands in the other, as the paper's rule for classes has it.
    """

    def __init__(self, within: bool = False):
        self.within = within

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`, 0 or 1. Raises UserError for a prompt whose answer is not known."""
        pairs = zip(samples.prompts, samples.responses, strict=True)
        return torch.tensor([float(self._right(_plain(boxes.answer(text)), _truth(prompt))) for prompt, text in pairs])

    def _right(self, told: str, true: str) -> bool:
        return bool(told) and (told == true or (self.within and (told in true or true in told)))


def there(prompt: Prompt) -> list[Box]:
    """The boxes that a prompt says are there. Raises UserError where it does not tell, or where they are none."""
    told = prompt.metadata.get("boxes")
    try:
        return [boxes.box(one) for one in told]  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{_named(prompt)} has no `boxes`, a list of [x1, y1, x2, y2]: {str(told)[:60]}") from None


def _size(prompt: Prompt) -> tuple[float, float]:
    told = prompt.metadata.get("size")
    try:
        width, height = map(float, told)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{_named(prompt)} has no `size`, [width, height], which `frame` needs") from None
    return width, height


def _truth(prompt: Prompt) -> str:
    told: Any = prompt.metadata.get("answer")
    if not isinstance(told, str) or not (true := _plain(boxes.answer(told))):
        raise UserError(f"{_named(prompt)} has no `answer` to compare with")
    return true


def _plain(text: str) -> str:
    """In small letters, without punctuation but for what belongs to a number: -5, 1.5, 3/4, 20%."""
    kept = re.sub(r"(?!(?<!\w)[-.](?=\d)|(?<=\d)[.,/](?=\d)|(?<=\d)%)[^\w\s]|_", " ", text.lower())
    return " ".join(kept.split())


def _named(prompt: Prompt) -> str:
    return f"prompt '{prompt.text[:60]}'"
