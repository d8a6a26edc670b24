"""What a text claims, statement by statement, and where: of captions, of descriptions, and of whatever a model answers.

There are three shapes. There is a red circle. It is left of a blue square.

existence   there are three shapes; there is a circle; there is a square
attribute   the circle is red; the square is blue
relation    the red circle is left of the blue square

What is said again claims nothing new. Sentences outside the grammar claim nothing at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES

Type = Literal["existence", "attribute", "relation"]
TYPES: tuple[Type, ...] = get_args(Type)
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Mention:
    """A thing as a text names it; None where it does not tell the colour."""

    shape: str
    color: str | None = None


@dataclass(frozen=True)
class Claim:
    """What is claimed: that a thing exists, or that there are `count`; that one has its colour; how one lies to another."""

    type: Type
    things: tuple[Mention, ...] = ()
    relation: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Statement:
    """A claim and the word that makes it, `text[start:end]`: the number, the shape, the colour or the relation.

    claim: None for a sentence outside the grammar, which is `text[start:end]`.
    """

    claim: Claim | None
    start: int
    end: int


def _pattern(form: str) -> re.Pattern[str]:
    words = {"COLOR": COLORS, "SHAPE": SHAPES, "RELATION": RELATIONS, "NUMBER": NUMBERS}
    form = form.replace("THING", "(?:an?|another|the) (?:COLOR )?SHAPE")
    for name, known in words.items():
        form = form.replace(name, f"(?:{'|'.join(known)})")
    return re.compile(form.replace(" ", r"\s+"), re.IGNORECASE)


_SENTENCE = re.compile(r"[^\s.!?][^.!?\n]*")
_FORMS = [
    _pattern("there (?:is|are) NUMBER shapes?"),
    _pattern(r"(?:there (?:is|are) |a picture of )?THING(?:(?:\s*, (?:and )?| and )THING)*"),
    _pattern("(?:there is |a picture of )?(?:THING|it) (?:is )?RELATION THING"),
    _pattern("(?:THING|it) is COLOR"),
]
_PARTS = _pattern(
    r"\b(?:(?P<number>NUMBER)|(?P<it>it)|(?:an?|another|the) (?:(?P<color>COLOR) )?(?P<shape>SHAPE)"
    r"|is (?P<said>COLOR)|(?P<relation>RELATION))\b"
)


def statements(text: str) -> list[Statement]:
    """The statements of any text, in its order. "It" is what the last sentence without an "it" named first."""
    found: list[Statement] = []
    claimed: set[Claim | None] = set()
    topic: Mention | None = None
    for sentence in _SENTENCE.finditer(text):
        topic, said = _read(text, sentence.start(), sentence.start() + len(sentence.group().rstrip()), topic)
        for one in said:
            if one.claim is None or one.claim not in claimed:
                found.append(one)
            claimed.add(one.claim)
    return found


def _read(text: str, start: int, end: int, topic: Mention | None) -> tuple[Mention | None, list[Statement]]:
    """What the next "it" will be, and the statements of a sentence."""
    parts = list(_PARTS.finditer(text, start, end))
    if not any(form.fullmatch(text, start, end) for form in _FORMS) or (parts[0]["it"] and topic is None):
        return topic, [Statement(None, start, end)]
    if parts[0]["number"]:
        return topic, [Statement(_count(parts[0]["number"]), *parts[0].span("number"))]
    first = topic if parts[0]["it"] and topic else _mention(parts[0])
    if parts[-1]["said"]:
        first = Mention(first.shape, parts[-1]["said"].lower())
    return first, [one for part in parts for one in _claims(part, first, parts[-1])]


def _claims(part: re.Match[str], first: Mention, last: re.Match[str]) -> Iterator[Statement]:
    """The statements that a part makes of a sentence which is about `first` and ends with `last`."""
    if part["shape"]:
        yield Statement(Claim("existence", (_mention(part),)), *part.span("shape"))
    if part["color"]:
        yield Statement(Claim("attribute", (_mention(part),)), *part.span("color"))
    if part["said"]:
        yield Statement(Claim("attribute", (first,)), *part.span("said"))
    if part["relation"]:
        relation = " ".join(part["relation"].lower().split())
        yield Statement(Claim("relation", (first, _mention(last)), relation), *part.span("relation"))


def _mention(part: re.Match[str]) -> Mention:
    return Mention(part["shape"].lower(), part["color"].lower() if part["color"] else None)


def _count(number: str) -> Claim:
    return Claim("existence", count=NUMBERS.index(number.lower()) + 1)
