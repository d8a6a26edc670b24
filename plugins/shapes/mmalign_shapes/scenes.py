"""Scenes of one to four coloured shapes: what there is to draw, to say and to check.

Lengths are pixels of a 64 x 64 picture; x grows to the right, y downwards.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

SIZE = 64
COLORS = {
    "red": (214, 40, 40),
    "green": (38, 160, 65),
    "blue": (40, 84, 214),
    "yellow": (240, 200, 30),
    "purple": (150, 50, 180),
    "black": (25, 25, 28),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Name -> where the first thing lies as seen from the second, (x, y)."""

_CLEARLY = 8.0
"""How far apart two things lie at least where a relation holds."""
_RADII = (8.5, 11.5)
_APART = (26.0, 32.0)
_ACROSS = 6.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Kind:
    """What a thing is, apart from where it is."""

    color: str
    shape: str

    def __str__(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Thing:
    """A shape in a picture. x, y: its centre. radius: half of its side."""

    kind: Kind
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Things, and how the first lies to the second (None unless there are exactly two). background: grey level, 0 to 255."""

    things: tuple[Thing, ...]
    relation: str | None
    background: int

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the things are, in order."""
        return tuple(thing.kind for thing in self.things)


def kinds() -> list[Kind]:
    """All colours with all shapes."""
    return [Kind(color, shape) for color in COLORS for shape in SHAPES]


def holds(a: Thing, b: Thing, relation: str) -> bool:
    """Whether `a` lies clearly, and more along the relation's axis than across it, on that side of `b`."""
    dx, dy = RELATIONS[relation]
    along = (a.x - b.x) * dx + (a.y - b.y) * dy
    across = abs((a.x - b.x) * dy) + abs((a.y - b.y) * dx)
    return along >= _CLEARLY and along > across


def draw_scene(rng: random.Random, count: int = 2) -> Scene:
    """A random scene of 1 to 4 different things."""
    return arrange(rng, rng.sample(kinds(), count))


def arrange(rng: random.Random, chosen: list[Kind]) -> Scene:
    """A random scene of these things."""
    return place(rng, chosen, rng.choice(list(RELATIONS)) if len(chosen) == 2 else None)


def place(rng: random.Random, chosen: list[Kind], relation: str | None) -> Scene:
    """Give things their places: as `relation` says for two, anywhere apart from each other otherwise."""
    radii = [rng.uniform(*_RADII) for _ in chosen]
    centres = _related(rng, relation, radii) if relation else _scattered(rng, radii)
    things = (Thing(kind, x, y, r) for kind, (x, y), r in zip(chosen, centres, radii, strict=True))
    return Scene(tuple(things), relation, rng.randint(222, 242))


def _related(rng: random.Random, relation: str, radii: list[float]) -> list[tuple[float, float]]:
    dx, dy = RELATIONS[relation]
    apart, across = rng.uniform(*_APART), rng.uniform(-_ACROSS, _ACROSS)
    offset = (dx * apart + abs(dy) * across, dy * apart + abs(dx) * across)
    low = [max(radii[1], radii[0] - o) + _MARGIN for o in offset]
    high = [min(SIZE - radii[1], SIZE - radii[0] - o) - _MARGIN for o in offset]
    x, y = (rng.uniform(a, max(a, b)) for a, b in zip(low, high, strict=True))
    return [(x + offset[0], y + offset[1]), (x, y)]


def _scattered(rng: random.Random, radii: list[float]) -> list[tuple[float, float]]:
    while True:
        centres = list(_anywhere(rng, radii))
        pairs = [(i, j) for i in range(len(radii)) for j in range(i)]
        if all(_clear(centres[i], centres[j], radii[i] + radii[j] + _MARGIN) for i, j in pairs):
            return centres


def _anywhere(rng: random.Random, radii: list[float]) -> Iterator[tuple[float, float]]:
    for radius in radii:
        low, high = radius + _MARGIN, SIZE - radius - _MARGIN
        yield rng.uniform(low, high), rng.uniform(low, high)


def _clear(a: tuple[float, float], b: tuple[float, float], distance: float) -> bool:
    """Whether two squares of together `distance` half sides do not touch."""
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= distance
