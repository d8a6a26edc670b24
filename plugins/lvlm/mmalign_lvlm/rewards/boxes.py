"""Boxes in answers, and how they agree with those that are there. Liu et al. 2025 (Visual-RFT), arXiv:2503.01785.

An answer stands between <answer> and </answer>, or is the whole text. It holds boxes x1, y1, x2, y2 in any of these ways:

    [{'Position': [10, 20, 30, 40], 'Confidence': 0.9}, ...]        [10, 20, 30, 40]        [[10, 20, 30, 40], ...]

Boxes that are said, surest first, each get the box that is there, not taken yet and overlaps most, if their IoU is above 0.5.

    R_iou = Σ_matched IoU / max(# there, # said)        R_conf = mean over the said of (c if matched else 1 - c)

With nothing there, R_iou is 1 for an answer without boxes and 0 for any other. An answer that cannot be read scores 0 in both.
"""

import ast
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 <= x2 and y1 <= y2."""

MATCHED = 0.5

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LISTED = re.compile(r"\[.*\]", re.DOTALL)


class Said(NamedTuple):
    """A box in an answer. confidence: in 0 to 1, 1 where the answer does not tell."""

    box: Box
    confidence: float


def answer(text: str) -> str:
    """What stands between the last <answer> and its </answer>; the whole text where there is none."""
    return ([text, *_ANSWER.findall(text)][-1]).strip()


def said(text: str) -> list[Said] | None:
    """The boxes of an answer, surest first, each once; None if it cannot be read."""
    found = _LISTED.search(answer(text))
    try:
        boxes = list(_boxes(ast.literal_eval(found[0]))) if found else None
    except (ValueError, TypeError, KeyError, OverflowError, SyntaxError, MemoryError, RecursionError):
        return None
    first = {one.box: one for one in reversed(boxes or ())}
    kept = dict.fromkeys(first[one.box] for one in boxes or ())
    return None if boxes is None else sorted(kept, key=lambda one: -one.confidence)


def _boxes(told: Any) -> Iterator[Said]:
    """Raises ValueError, TypeError, KeyError or OverflowError where it is not one of the ways at the head of this file."""
    if not isinstance(told, list):
        raise ValueError
    if len(told) == 4 and all(isinstance(one, int | float) for one in told):
        yield Said(box(told), 1.0)
        return
    for one in told:
        if isinstance(one, dict):
            yield Said(box(one["Position"]), min(1.0, max(0.0, float(one.get("Confidence", 1.0)))))
        else:
            yield Said(box(one), 1.0)


def box(told: Any) -> Box:
    """Four numbers as a box. Raises ValueError, TypeError or OverflowError for anything else, and for a box turned inside out."""
    if isinstance(told, str):
        raise TypeError("a text is no box, though its letters may be four digits")
    x1, y1, x2, y2 = map(float, told)
    if not (-math.inf < x1 <= x2 < math.inf and -math.inf < y1 <= y2 < math.inf):
        raise ValueError("a box is x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    return x1, y1, x2, y2


def iou(one: Box, other: Box) -> float:
    """The share of both together that both cover; 0 where neither covers anything."""
    common = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    union = _area(one) + _area(other) - common
    return common / union if union else 0.0


def giou(one: Box, other: Box) -> float:
    """IoU less the share of the smallest box around both that neither covers. Rezatofighi et al. 2019, arXiv:1902.09630."""
    around = _area((min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])))
    common = iou(one, other)
    union = (_area(one) + _area(other)) / (1 + common)
    return common - (around - union) / around if around else common


def matches(said: Sequence[Said], there: Sequence[Box]) -> list[float]:
    """The IoU of each said box with the box that it gets; 0 where it gets none."""
    left, found = list(there), []
    for one in said:
        best = max(left, key=lambda other: iou(one.box, other), default=None)
        overlap = iou(one.box, best) if best else 0.0
        if best and overlap > MATCHED:
            left.remove(best)
        found.append(overlap if overlap > MATCHED else 0.0)
    return found


def r_iou(said: Sequence[Said] | None, there: Sequence[Box]) -> float:
    """R_iou. said: None for what cannot be read."""
    if said is None:
        return 0.0
    most = max(len(said), len(there))
    return sum(matches(said, there)) / most if most else 1.0


def r_confidence(said: Sequence[Said] | None, there: Sequence[Box]) -> float:
    """R_conf; 0 where nothing is said."""
    pairs = zip(said or (), matches(said or (), there), strict=True)
    kept = [one.confidence if overlap else 1 - one.confidence for one, overlap in pairs]
    return sum(kept) / len(kept) if kept else 0.0


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
