"""Moving scenes: things that cross a picture steadily or stay, as videos of nine frames.

A video is a scene a frame, in each the same things in the same order. Speeds are pixels a frame.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmalign_shapes import render
from mmalign_shapes.scenes import COLORS, SHAPES, SIZE, Kind, Scene, Thing

FRAMES = 9
"""4 · 2 + 1, as autoencoders that join four frames after the first want it."""

MOTIONS = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
    "stays": (0, 0),
}
"""Name -> which way, (x, y)."""

_SPEEDS = (2.0, 4.0)
_RADII = (8.5, 11.5)
_MARGIN = 2.0
_APART = 5.0
"""How far two things keep from each other, at least."""

Clip = tuple[Scene, ...]
"""A video as it is known: a scene a frame."""


@dataclass(frozen=True)
class Mover:
    """A thing and what it does."""

    kind: Kind
    motion: str

    def __str__(self) -> str:
        return f"{self.kind} {self.motion}"


def movers() -> list[Mover]:
    """All things with all motions."""
    return [Mover(Kind(color, shape), motion) for color in COLORS for shape in SHAPES for motion in MOTIONS]


def arrange(rng: random.Random, acting: Sequence[Mover]) -> Clip:
    """A random video in which one or two things do what they are to do, without touching each other."""
    background = rng.randint(222, 242)
    while True:
        paths = [_path(rng, mover) for mover in acting]
        if all(_clear(a, b) for i, a in enumerate(paths) for b in paths[:i]):
            return tuple(Scene(things, None, background) for things in zip(*paths, strict=True))


def pixels(clips: Sequence[Clip]) -> Tensor:
    """`[B, F, 3, 64, 64]` in [0, 1]."""
    return torch.stack([render.pixels(clip) for clip in clips])


def _path(rng: random.Random, mover: Mover) -> list[Thing]:
    """The thing in each frame; all of its way is within the picture."""
    radius, speed, way = rng.uniform(*_RADII), rng.uniform(*_SPEEDS), MOTIONS[mover.motion]
    steps = [speed * axis for axis in way]
    x, y = (_start(rng, radius + _MARGIN, step * (FRAMES - 1)) for step in steps)
    return [Thing(mover.kind, x + steps[0] * frame, y + steps[1] * frame, radius) for frame in range(FRAMES)]


def _start(rng: random.Random, edge: float, travel: float) -> float:
    """Where to start so that one ends `travel` further on and never comes nearer to a side of the picture than `edge`."""
    return rng.uniform(edge - min(0.0, travel), SIZE - edge - max(0.0, travel))


def _clear(a: Sequence[Thing], b: Sequence[Thing]) -> bool:
    """Whether two things never come near each other."""
    pairs = zip(a, b, strict=True)
    return all(max(abs(p.x - q.x), abs(p.y - q.y)) >= p.radius + q.radius + _APART for p, q in pairs)


# ---- what can be wrong with a video


def recolored(clip: Clip, rng: random.Random) -> Clip:
    """The first thing has another colour, in all frames."""
    kind = clip[0].things[0].kind
    other = Kind(rng.choice([color for color in COLORS if color != kind.color]), kind.shape)
    return tuple(_changed(scene, kind=other) for scene in clip)


def reversed_(clip: Clip, rng: random.Random) -> Clip:
    """Everything moves the other way; what stays, stays."""
    return clip[::-1]


def jittered(clip: Clip, rng: random.Random, by: float = 2.0) -> Clip:
    """The first thing trembles: each frame shows it elsewhere. by: standard deviation along each axis."""
    return tuple(_moved(scene, rng.gauss(0, by), rng.gauss(0, by)) for scene in clip)


def frozen(clip: Clip, rng: random.Random) -> Clip:
    """Three frames in a row stand still, then it goes on as if they had not; what stays, stays."""
    first = rng.randrange(1, len(clip) - 3)
    return clip[:first] + clip[first - 1 : first] * 3 + clip[first + 3 :]


def flickering(clip: Clip, rng: random.Random) -> Clip:
    """In two to four frames the first thing has another colour, shape or size."""
    at = rng.sample(range(len(clip)), rng.randint(2, 4))
    return tuple(_flickered(scene, rng) if frame in at else scene for frame, scene in enumerate(clip))


WRONGS = {"VQ": (flickering,), "MQ": (jittered, frozen), "TA": (recolored, reversed_)}
"""By dimension of quality, what is wrong with a video in that one alone."""


def _flickered(scene: Scene, rng: random.Random) -> Scene:
    thing = scene.things[0]
    color = rng.choice([name for name in COLORS if name != thing.kind.color])
    shape = rng.choice([name for name in SHAPES if name != thing.kind.shape])
    changes = [{"kind": Kind(color, thing.kind.shape)}, {"kind": Kind(thing.kind.color, shape)}, {"radius": 6.5}]
    return _changed(scene, **rng.choice(changes))


def _moved(scene: Scene, x: float, y: float) -> Scene:
    """The first thing so far from where it was, but within the picture."""
    thing = scene.things[0]
    low, high = thing.radius, SIZE - thing.radius
    return _changed(scene, x=min(max(thing.x + x, low), high), y=min(max(thing.y + y, low), high))


def _changed(scene: Scene, **changes: object) -> Scene:
    """The scene with another first thing."""
    first, *others = scene.things
    return replace(scene, things=(replace(first, **changes), *others))
