"""Long captions: describe a scene in several sentences, truly or with some statements wrong.

There are three shapes. There is a red circle. It is left of a blue square. There is a green cross. It is above the red circle.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Kind, Scene, holds
from mmalign_shapes.statements import NUMBERS, Type

Change = Callable[["Description"], "Description"]


@dataclass(frozen=True)
class Link:
    """How thing number `first` lies to thing number `second`."""

    first: int
    relation: str
    second: int


@dataclass(frozen=True)
class Description:
    """What is said: how many things there are, what they are in the order of a scene's, and how they lie.

    order: in which order things are spoken of, as their numbers.
    """

    count: int
    kinds: tuple[Kind, ...]
    links: tuple[Link, ...]
    order: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in _sentences(self))


def describe(scene: Scene, rng: random.Random) -> Description:
    """A true description of a scene of one to four things, from the upper left to the lower right, as people read."""
    order = sorted(range(len(scene.things)), key=lambda i: scene.things[i].x + scene.things[i].y)
    pairs = [(order[k - 1], order[k]) if k % 2 else (order[k], rng.choice(order[:k])) for k in range(1, len(order))]
    links = [Link(a, relation, b) for a, b in pairs for relation in _related(scene, a, b, True)[:1]]
    return Description(len(order), scene.kinds, tuple(links), tuple(order))


def hallucinated(true: Description, scene: Scene, share: float, rng: random.Random) -> Description:
    """The description with each of its statements made false with probability `share`, a word each."""
    said = true
    for change in [change for _, change in changes(true, scene, rng) if rng.random() < share]:
        said = change(said)
    return said


def changes(true: Description, scene: Scene, rng: random.Random) -> Iterator[tuple[Type, Change]]:
    """One change a statement that makes it false, with the statement's type. Where no shape is missing, none is made up."""
    wrong = rng.choice([n for n in range(1, len(NUMBERS) + 1) if n != true.count])
    yield "existence", lambda said: replace(said, count=wrong)
    missing = [shape for shape in SHAPES if shape not in {kind.shape for kind in scene.kinds}]
    for i in true.order:
        if missing:
            yield "existence", _with(i, shape=rng.choice(missing))
        others = [color for color in COLORS if Kind(color, true.kinds[i].shape) not in scene.kinds]
        yield "attribute", _with(i, color=rng.choice(others))
    for i, link in enumerate(true.links):
        yield "relation", _turned(i, rng.choice(_related(scene, link.first, link.second, False)))


def _with(index: int, **word: str) -> Change:
    """Another colour or shape of a thing, wherever it is named."""

    def change(said: Description) -> Description:
        kinds = [replace(kind, **word) if i == index else kind for i, kind in enumerate(said.kinds)]
        return replace(said, kinds=tuple(kinds))

    return change


def _turned(index: int, relation: str) -> Change:
    """Another relation in a link."""

    def change(said: Description) -> Description:
        links = [replace(link, relation=relation) if i == index else link for i, link in enumerate(said.links)]
        return replace(said, links=tuple(links))

    return change


def _related(scene: Scene, first: int, second: int, true: bool) -> list[str]:
    """The relations of two things that hold, or those that do not."""
    a, b = scene.things[first], scene.things[second]
    return [relation for relation in RELATIONS if holds(a, b, relation) == true]


def _sentences(said: Description) -> Iterator[str]:
    """A thing is introduced where it is first named: "a red circle"; afterwards it is "the red circle"."""
    yield f"there {'is' if said.count == 1 else 'are'} {NUMBERS[said.count - 1]} shape{'s' * (said.count > 1)}"
    named: set[int] = set()
    for i in said.order:
        if i not in named:
            yield f"there is a {said.kinds[i]}"
        named.add(i)
        for link in said.links:
            if link.first == i:
                yield f"it is {link.relation} {'the' if link.second in named else 'a'} {said.kinds[link.second]}"
                named.add(link.second)
