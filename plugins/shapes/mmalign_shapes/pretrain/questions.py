"""Questions whether something is true of a picture: how the captioner learns to check what it hears, and not only to speak.

Who never had to check a sentence against a picture cannot be taught by a few hundred labelled ones to do so; a judge or a
reward model that is made of the captioner needs it.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.judge import said
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Kind, Scene
from mmalign_shapes.statements import NUMBERS, Claim, Mention

Asked = tuple[str, str]
"""A question and its answer."""

Form = Callable[[Kind, Kind, random.Random], Claim]
"""What is claimed about two things of a scene."""

FALSE = 0.25
"""Share of the statements that are false in a description whose sentences are asked about."""
_JUDGE = 'Is this true of the picture: "{}" Answer yes or no.'
_SENTENCE = re.compile(r"[^.]+\.")


@dataclass(frozen=True)
class Mix:
    """What is asked: with probability `sentences` a dialogue goes through a description, else it is about so many facts of random
    `forms`.
    """

    forms: Sequence[str]
    facts: int
    sentences: float


def dialogue(scene: Scene, rng: random.Random, mix: Mix) -> list[Asked]:
    """Sentences of one description one after the other, or facts that have nothing to do with each other."""
    whole = rng.random() < mix.sentences
    (text, answer), *rest = sentences(scene, rng) if whole else facts(scene, rng, mix.forms, mix.facts)
    asked = _JUDGE.format(text) if text.endswith(".") and rng.random() < 0.5 else text
    return [(asked, answer), *rest]


def sentences(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Each sentence of a partly false description; of a thing that is not there nothing is true."""
    text = str(hallucinated(describe(scene, rng), scene, FALSE, rng))
    told = judged(text, scene)
    for sentence in _SENTENCE.finditer(text):
        own = [one.true for one in told if sentence.start() <= one.statement.start < sentence.end()]
        yield sentence.group().strip(), _answer(all(own))


def facts(scene: Scene, rng: random.Random, forms: Sequence[str], count: int = 8) -> Iterator[Asked]:
    """So many facts of random `forms`. Of every form as many are true as are false, so that no answer can be told from the
    question alone; half of those about existence ask as POPE does.
    """
    for _ in range(count):
        form, wanted = FORMS[rng.choice(forms)], rng.random() < 0.5
        tried = islice(_said(form, scene, rng), 50)  # for where every shape is there, none is missing
        text, true = next((one for one in tried if one[1] == wanted), next(_said(form, scene, rng)))
        if text.startswith("There is a ") and rng.random() < 0.5:
            text = f"Is there a {text.removeprefix('There is a ').removesuffix('.')} in the image?"
        yield text, _answer(true)


def _said(form: Form, scene: Scene, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Facts of a form with whether they are true, without end. Two things in a relation are two."""
    while True:
        first, second = rng.sample([thing.kind for thing in scene.things], 2)
        text = said(form(first, second, rng))
        yield text, all(one.true for one in judged(text, scene))


def _number(first: Kind, second: Kind, rng: random.Random) -> Claim:
    return Claim("existence", count=rng.randint(1, len(NUMBERS)))


def _shape(first: Kind, second: Kind, rng: random.Random) -> Claim:
    return Claim("existence", (Mention(rng.choice(SHAPES)),))


def _thing(first: Kind, second: Kind, rng: random.Random) -> Claim:
    return Claim("existence", (Mention(rng.choice([first.shape, *SHAPES]), rng.choice([first.color, *COLORS])),))


def _color(first: Kind, second: Kind, rng: random.Random) -> Claim:
    return Claim("attribute", (Mention(first.shape, rng.choice([*COLORS])),))


def _relation(first: Kind, second: Kind, rng: random.Random) -> Claim:
    things = tuple(Mention(kind.shape, kind.color) for kind in (first, second))
    return Claim("relation", things, rng.choice([*RELATIONS]))


FORMS: Mapping[str, Form] = {
    "number": _number,
    "shape": _shape,
    "thing": _thing,
    "color": _color,
    "relation": _relation,
}
EVEN = Mix(tuple(FORMS), facts=6, sentences=0.5)
SHAPES_FIRST = Mix(("number", "color", *["shape"] * 3, *["thing"] * 2, *["relation"] * 2), facts=10, sentences=0.3)
"""Mostly whether something is there at all, which is learnt last."""
THINGS_FIRST = Mix(("number", "shape", *["color"] * 2, *["thing"] * 3, *["relation"] * 2), facts=10, sentences=0.3)


def _answer(true: bool) -> str:
    return "Yes" if true else "No"
