"""The little language of videos: say what moves, read it back, and which sayings are held out.

a red circle moves left
a red circle moves up and a blue square stays
"""

import hashlib
import random
from collections.abc import Sequence

from mmalign.errors import UserError
from mmalign_shapes import grammar
from mmalign_shapes.moving import MOTIONS, Mover, movers
from mmalign_shapes.prompts import SPLITS
from mmalign_shapes.scenes import COLORS, Kind

Movers = tuple[Mover, ...]
"""What a caption claims: one or two things and what each does."""

_SAID = {motion: (motion, motion.replace("moves", "is moving").replace("stays", "is staying")) for motion in MOTIONS}
"""Name -> the ways to say it, the plainest first: "moves left", "is moving left"."""


def say(acting: Movers, rng: random.Random | None = None) -> str:
    """Words for what moves: the plainest, or one of several ways when `rng` is given."""
    ways = [rng.choice(_SAID[mover.motion]) if rng else mover.motion for mover in acting]
    return " and ".join(f"a {mover.kind} {way}" for mover, way in zip(acting, ways, strict=True))


def read(text: str) -> Movers:
    """The movers that words name. Raises ValueError naming what is outside the grammar."""
    return tuple(_mover(part) for part in text.strip().lower().rstrip(".").split(" and "))


def corrupted(acting: Movers, rng: random.Random) -> Movers:
    """The same with one thing wrong: a colour or a motion."""
    index = rng.randrange(len(acting))
    wrong = rng.choice((_recolored, _redirected))(acting[index], rng)
    return (*acting[:index], wrong, *acting[index + 1 :])


def is_in(split: str, acting: Sequence[Mover]) -> bool:
    """Whether a split has this caption: held out is what names a combination of colour, shape and motion that is held out,
    about one in five. Raises UserError for an unknown split.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, not '{split}'")
    return any(map(_held_out, acting)) == (split == "held-out")


def captions(split: str, things: int = 1) -> list[Movers]:
    """Every caption of a split about one thing, or about two that differ in colour and shape, in a fixed order."""
    if things not in (1, 2):
        raise UserError(f"things must be 1 or 2, not {things}")
    alone: list[Movers] = [(mover,) for mover in movers()]
    pairs = [
        (a, b) for (a,) in alone for (b,) in alone if a.kind.color != b.kind.color and a.kind.shape != b.kind.shape
    ]
    return [caption for caption in (alone if things == 1 else pairs) if is_in(split, caption)]


def _held_out(mover: Mover) -> bool:
    return hashlib.sha256(str(mover).encode()).digest()[0] % 5 == 0


def _mover(text: str) -> Mover:
    for motion, ways in _SAID.items():
        for way in ways:
            if text.endswith(f" {way}"):
                (kind,) = grammar.read(text.removesuffix(f" {way}")).kinds
                return Mover(kind, motion)
    raise ValueError(f"not in the grammar of moving shapes: '{text}' says none of {', '.join(MOTIONS)}")


def _recolored(mover: Mover, rng: random.Random) -> Mover:
    color = rng.choice([color for color in COLORS if color != mover.kind.color])
    return Mover(Kind(color, mover.kind.shape), mover.motion)


def _redirected(mover: Mover, rng: random.Random) -> Mover:
    return Mover(mover.kind, rng.choice([motion for motion in MOTIONS if motion != mover.motion]))
