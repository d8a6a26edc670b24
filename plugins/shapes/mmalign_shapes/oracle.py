"""The oracle: looks at any picture, says what is in it, and judges captions. It would rather be unsure than guess.

A pixel belongs to the nearest palette colour or to the background. Connected pixels of a colour are a blob; the template that
overlaps a blob best names its shape. What fits nothing well makes the picture unsure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from mmalign_shapes.grammar import Caption, read
from mmalign_shapes.render import picture
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Kind, Scene, Thing, holds
from mmalign_shapes.statements import Claim, Mention, Statement, statements

_SMALLEST = 50
"""Pixels of the smallest blob that can be a thing."""
_SPECK = 14
"""Pixels of a blob that may be overlooked."""
_CLEAR = 0.88
"""Least sum of a shape's overlap and its lead over the next best: a worn outline will do where nothing else comes near."""
_LEAD = 0.03
_NAMES = tuple(COLORS)
_PALETTE = np.array([*COLORS.values()], dtype=np.float32)
_STRANGE = 45.0
"""How far, in grey levels, a pixel may be from every mix of background and one colour."""
_FAINT = 0.25
"""Share of colour above which a pixel is no longer mere background."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """What the oracle sees. sure: every blob is clearly a thing."""

    things: tuple[Thing, ...]
    sure: bool


@dataclass(frozen=True)
class Verdict:
    """correct: the picture shows the caption and nothing else. unsure: the oracle cannot tell. Never both."""

    correct: bool
    unsure: bool
    seen: Seen


@dataclass(frozen=True)
class Judged:
    """A statement and whether it is true; None is no statement, or one about a thing that is not there."""

    statement: Statement
    true: bool | None


def look(pixels: Tensor) -> Seen:
    """What is in one picture `[3, 64, 64]` in [0, 1]."""
    image = pixels.detach().cpu().float().permute(1, 2, 0).numpy() * 255
    if not np.isfinite(image).all():
        return Seen((), sure=False)
    nearest, clear = _colors(image)
    things: list[Thing] = []
    sure = clear
    for index, color in enumerate(_NAMES):
        labels, count = ndimage.label(nearest == index)
        for number, box in enumerate(ndimage.find_objects(labels, count), start=1):
            thing, clear = _thing(labels[box] == number, box, color)
            sure &= clear
            things += [thing] if thing else []
    return Seen(tuple(things), sure)


def judge(pixels: Tensor, caption: str | Caption) -> Verdict:
    """Whether one picture `[3, 64, 64]` shows exactly what a caption says. Raises ValueError outside the grammar."""
    claim = read(caption) if isinstance(caption, str) else caption
    seen = look(pixels)
    return Verdict(seen.sure and _shows(seen, claim), not seen.sure, seen)


def judge_batch(pixels: Tensor, captions: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """`correct` and `unsure`, `[B]` each, for `[B, 3, 64, 64]` in [0, 1]."""
    verdicts = [judge(image, caption) for image, caption in zip(pixels, captions, strict=True)]
    return np.array([v.correct for v in verdicts], bool), np.array([v.unsure for v in verdicts], bool)


def caption_seen(seen: Seen) -> Caption | None:
    """What one would say of a picture, in the order of the things; None when unsure, empty or beyond the grammar."""
    if not seen.sure or not 1 <= len(seen.things) <= 3:
        return None
    found = tuple(thing.kind for thing in seen.things)
    if len(found) != 2:
        return Caption(found)
    relation = next((r for r in RELATIONS if holds(seen.things[0], seen.things[1], r)), None)
    return Caption(found, relation) if relation else None


def judged(text: str, scene: Scene) -> list[Judged]:
    """Each statement of a text with whether it is true of a scene. Every error counts once, where it begins: of a thing that
    is not there, its existence is false, and its colour and place are neither true nor false.
    """
    return [Judged(statement, _true(statement.claim, scene)) for statement in statements(text)]


def _true(claim: Claim | None, scene: Scene) -> bool | None:
    if claim is None:
        return None
    if claim.count is not None:
        return claim.count == len(scene.things)
    if claim.type == "existence":
        return bool(_meant(claim.things[0], scene))
    meant = [_meant(mention, scene) for mention in claim.things]
    if not all(meant):
        return None
    if claim.relation is None:
        return any(thing.kind.color == claim.things[0].color for thing in meant[0])
    return any(a != b and holds(a, b, claim.relation) for a in meant[0] for b in meant[1])


def _meant(mention: Mention, scene: Scene) -> list[Thing]:
    """The things that may be meant: of that colour and shape, or else of that shape."""
    alike = [thing for thing in scene.things if thing.kind.shape == mention.shape]
    return [thing for thing in alike if thing.kind.color == mention.color] or alike


def _shows(seen: Seen, claim: Caption) -> bool:
    if sorted(map(str, claim.kinds)) != sorted(str(thing.kind) for thing in seen.things):
        return False
    if claim.relation is None:
        return True
    first, second = claim.kinds
    pairs = [(a, b) for a in seen.things for b in seen.things if a is not b and (a.kind, b.kind) == (first, second)]
    return any(holds(a, b, claim.relation) for a, b in pairs)


def _colors(image: NDArray[np.float32]) -> tuple[NDArray[np.intp], bool]:
    """The palette index of each pixel (-1: background), and whether few pixels are faint or of no known colour.

    An edge pixel is a mix of background and one colour, so a pixel belongs to the colour whose line from the background
    passes nearest to it. Nearest palette colour alone would call the grey edge of a black shape purple.
    """
    background = np.median(image[::2, ::2].reshape(-1, 3), axis=0)
    ways = _PALETTE - background
    lengths = (ways**2).sum(axis=1)
    offsets = image - background
    along = offsets @ ways.T
    share = (along / lengths).clip(0, 1)
    # |offset - share * way|^2, multiplied out: a quarter of the time of the plain form.
    distance = (offsets**2).sum(axis=-1, keepdims=True) + share * (share * lengths - 2 * along)
    nearest = distance.argmin(axis=-1)
    chosen = np.take_along_axis(share, nearest[..., None], axis=-1)[..., 0]
    unclear = (chosen > _FAINT) & ((chosen < 0.5) | (distance.min(axis=-1) > _STRANGE**2))
    return np.where(chosen > 0.5, nearest, -1), int(ndimage.binary_opening(unclear).sum()) <= _SPECK


def _thing(blob: Mask, box: tuple[slice, slice], color: str) -> tuple[Thing | None, bool]:
    """The thing that a blob is, if it is clearly one, and whether all is clear about it."""
    area, (height, width) = int(blob.sum()), blob.shape
    if area <= _SPECK or min(height, width) <= 2:  # a speck, or the antialiased edge between two colours
        return None, True
    if area < _SMALLEST or not 0.72 <= width / height <= 1.39:
        return None, False
    overlaps = sorted(((_overlap(blob, shape), shape) for shape in SHAPES), reverse=True)
    (best, shape), (second, _) = overlaps[0], overlaps[1]
    y, x = (s.start + (s.stop - s.start) / 2 for s in box)
    thing = Thing(Kind(color, shape), x, y, (height + width) / 4)
    lead = best - second
    return thing, best + lead >= _CLEAR and lead >= _LEAD


def _overlap(blob: Mask, shape: str) -> float:
    """Intersection over union with the shape drawn into the blob's box."""
    template = _template(shape, *blob.shape)
    return float((blob & template).sum() / (blob | template).sum())


@cache
def _template(shape: str, height: int, width: int) -> Mask:
    """The shape, filling a box."""
    drawn = picture(Scene((Thing(Kind("black", shape), 32, 32, 30),), None, 255)).convert("L").crop((2, 2, 62, 62))
    mask: Mask = np.asarray(drawn.resize((width, height))) < 128
    return mask
