"""The little language of captions: say a scene, read a caption back.

a red circle
a red circle left of a blue square
a red circle, a blue square and a green triangle
"""

import random
import re
from dataclasses import dataclass, replace

from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Kind, Scene, kinds

_OPENINGS = ("{}", "there is {}", "a picture of {}")
_LINKS = ("{} {} {}", "{} is {} {}")


@dataclass(frozen=True)
class Caption:
    """What a caption claims: things in order, and how the first lies to the second."""

    kinds: tuple[Kind, ...]
    relation: str | None = None

    def __str__(self) -> str:
        return say(self)


def caption_of(scene: Scene) -> Caption:
    """The true caption of a scene."""
    return Caption(scene.kinds, scene.relation)


def say(caption: Caption, rng: random.Random | None = None) -> str:
    """Words for a caption: the plainest, or one of several ways when `rng` is given."""
    things = [f"a {kind}" for kind in caption.kinds]
    if caption.relation is None:
        body = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    else:
        link = rng.choice(_LINKS) if rng else _LINKS[0]
        body = link.format(things[0], caption.relation, things[1])
    opening = rng.choice(_OPENINGS) if rng and " is " not in body else _OPENINGS[0]
    return opening.format(body)


def turned_round(caption: Caption) -> Caption:
    """The same claim seen from the other thing: "A left of B" is "B right of A". Without a relation: the caption itself."""
    if caption.relation is None:
        return caption
    x, y = RELATIONS[caption.relation]
    opposite = next(name for name, side in RELATIONS.items() if side == (-x, -y))
    return Caption(caption.kinds[::-1], opposite)


def read(text: str) -> Caption:
    """The caption that words say. Raises ValueError naming what is outside the grammar."""
    body = re.sub(r"^(there is|a picture of) ", "", text.strip().lower().rstrip("."))
    for relation in RELATIONS:
        parts = re.split(rf" (?:is )?{relation} ", body)
        if len(parts) == 2:
            return Caption((_kind(parts[0]), _kind(parts[1])), relation)
    return Caption(tuple(_kind(part) for part in re.split(r", | and ", body)))


def corrupted(caption: Caption, rng: random.Random) -> Caption:
    """The caption with one thing wrong: a colour, a shape, and for two things the relation or the colours swapped."""
    wrongs = [_recolored, _reshaped]
    if caption.relation is not None:
        wrongs += [_turned, _swapped]
    while True:
        wrong = rng.choice(wrongs)(caption, rng)
        if wrong != caption:
            return wrong


def miscounted(caption: Caption, rng: random.Random) -> Caption:
    """The caption with one thing too many or too few; a relation that then holds no more is dropped or made up."""
    things = list(caption.kinds)
    if len(things) > 1 and (len(things) == 3 or rng.random() < 0.5):
        things.pop(rng.randrange(len(things)))
    else:
        things.append(rng.choice([kind for kind in kinds() if kind not in things]))
    return Caption(tuple(things), rng.choice(list(RELATIONS)) if len(things) == 2 else None)


def _kind(text: str) -> Kind:
    words = text.split()
    if len(words) != 3 or words[0] not in ("a", "an"):
        raise ValueError(f"not in the grammar of shapes: '{text}' (expected 'a COLOUR SHAPE')")
    if words[1] not in COLORS:
        raise ValueError(f"not in the grammar of shapes: '{words[1]}' is no colour of {', '.join(COLORS)}")
    if words[2] not in SHAPES:
        raise ValueError(f"not in the grammar of shapes: '{words[2]}' is no shape of {', '.join(SHAPES)}")
    return Kind(words[1], words[2])


def _exchange(caption: Caption, index: int, kind: Kind) -> Caption:
    changed = list(caption.kinds)
    changed[index] = kind
    return replace(caption, kinds=tuple(changed))


def _recolored(caption: Caption, rng: random.Random) -> Caption:
    index = rng.randrange(len(caption.kinds))
    old = caption.kinds[index]
    return _exchange(caption, index, rng.choice([k for k in kinds() if k.shape == old.shape and k != old]))


def _reshaped(caption: Caption, rng: random.Random) -> Caption:
    index = rng.randrange(len(caption.kinds))
    old = caption.kinds[index]
    return _exchange(caption, index, rng.choice([k for k in kinds() if k.color == old.color and k != old]))


def _turned(caption: Caption, rng: random.Random) -> Caption:
    return replace(caption, relation=rng.choice([r for r in RELATIONS if r != caption.relation]))


def _swapped(caption: Caption, rng: random.Random) -> Caption:
    a, b = caption.kinds
    return replace(caption, kinds=(Kind(b.color, a.shape), Kind(a.color, b.shape)))
