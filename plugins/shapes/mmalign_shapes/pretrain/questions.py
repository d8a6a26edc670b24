"""Questions whether something is true of a picture: how the captioner learns to check what it hears, and not only to speak.

Who never had to check a sentence against a picture cannot be taught by a few hundred labelled ones to do so; a judge or a
reward model that is made of the captioner needs it.
"""

import random
import re
from collections.abc import Iterator

from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.judge import said
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Scene
from mmalign_shapes.statements import NUMBERS, Claim, Mention

Asked = tuple[str, str]
"""A question and its answer."""

FALSE = 0.3
"""Share of the statements that are false in a description whose sentences are asked about."""
_JUDGE = 'Is this true of the picture: "{}" Answer yes or no.'
_SENTENCE = re.compile(r"[^.]+\.")
_FACTS = 6


def dialogue(scene: Scene, rng: random.Random) -> list[Asked]:
    """Sentences of one description one after the other, or facts that have nothing to do with each other."""
    (text, answer), *rest = sentences(scene, rng) if rng.random() < 0.6 else facts(scene, rng)
    asked = _JUDGE.format(text) if text.endswith(".") and rng.random() < 0.5 else text
    return [(asked, answer), *rest]


def sentences(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Each sentence of a partly false description; of a thing that is not there nothing is true."""
    text = str(hallucinated(describe(scene, rng), scene, FALSE, rng))
    told = judged(text, scene)
    for sentence in _SENTENCE.finditer(text):
        own = [one.true for one in told if sentence.start() <= one.statement.start < sentence.end()]
        yield sentence.group().strip(), _answer(all(own))


def facts(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """As many true ones as false ones, near enough; half of those about a shape ask for it as POPE does."""
    for _ in range(_FACTS):
        wanted = rng.random() < 0.5
        text, true = next(found for found in _claims(scene, rng) if found[1] == wanted)
        if text.startswith("There is a ") and rng.random() < 0.5:
            text = f"Is there a {text.removeprefix('There is a ').removesuffix('.')} in the image?"
        yield text, _answer(true)


def _claims(scene: Scene, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Facts of any type, most about things that are there, with whether they are true, without end."""
    while True:
        first, second = (rng.choice([thing.kind for thing in scene.things]) for _ in range(2))
        shape = rng.choice([first.shape, rng.choice(SHAPES)])
        color = rng.choice([first.color, rng.choice(list(COLORS))])
        claim = rng.choice(
            [
                Claim("existence", count=rng.randint(1, len(NUMBERS))),
                Claim("existence", (Mention(shape),)),
                Claim("existence", (Mention(shape, color),)),
                Claim("attribute", (Mention(first.shape, color),)),
                Claim(
                    "relation",
                    tuple(Mention(one.shape, one.color) for one in (first, second)),
                    rng.choice([*RELATIONS]),
                ),
            ]
        )
        if claim.type == "relation" and first == second:
            continue
        text = said(claim)
        yield text, all(one.true for one in judged(text, scene))


def _answer(true: bool) -> str:
    return "Yes" if true else "No"
