"""The oracle as a judge of answers: finds their statements, and says of each whether it is true of the picture.

It reads facts as texts, so that it can say whether those are true which another judge found, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Answer, Fact, Media, Prompt, Verdict
from mmalign_shapes.oracle import judged, look
from mmalign_shapes.scenes import Scene
from mmalign_shapes.statements import NUMBERS, Claim, Mention, statements


class ShapesOracle:
    """The oracle of the shapes world. Of a thing that is not there, colour and place are moot: its existence is what is false.

    It knows the scene of prompts of `shapes-images`, and looks at any other picture of shapes; where it is unsure what that
    shows, and of facts outside the grammar, it gives no verdict.
    """

    def facts(self, answers: Sequence[Answer]) -> list[list[list[Fact]]]:
        """By answer and by piece of it the statements that begin there."""
        return [[_begun(answer.text, start, end) for start, end in answer.spans] for answer in answers]

    def verify(self, questions: Sequence[tuple[Prompt, Fact]]) -> list[Verdict]:
        """Whether each fact is true of its prompt's scene or picture."""
        scenes: dict[int, Scene | None] = {}
        for prompt, _ in questions:
            if id(prompt) not in scenes:
                scenes[id(prompt)] = _scene(prompt)
        return [_verdict(fact, scenes[id(prompt)]) for prompt, fact in questions]


def said(claim: Claim) -> str:
    """A claim as a sentence of its own, which reads back as that claim."""
    if claim.count is not None:
        return f"There {'is' if claim.count == 1 else 'are'} {NUMBERS[claim.count - 1]} shape{'s' * (claim.count > 1)}."
    first, *others = claim.things
    if claim.type == "existence":
        return f"There is a {_named(first)}."
    if claim.type == "attribute":
        return f"The {_named(replace(first, color=None))} is {first.color}."
    return f"The {_named(first)} is {claim.relation} the {_named(others[0])}."


def _named(mention: Mention) -> str:
    return f"{mention.color} {mention.shape}" if mention.color else mention.shape


def _begun(text: str, start: int, end: int) -> list[Fact]:
    found = [one for one in statements(text) if start <= one.start < end]
    return [Fact(one.claim.type, said(one.claim)) for one in found if one.claim is not None]


def _verdict(fact: Fact, scene: Scene | None) -> Verdict:
    claims = [] if scene is None else [one for one in judged(fact.text, scene) if one.statement.claim is not None]
    found = [one.true for one in claims if one.statement.claim and one.statement.claim.type == fact.kind]
    if not found:
        return Verdict("none")
    if None in found:
        return Verdict("moot")
    return Verdict("yes" if all(found) else "no")


def _scene(prompt: Prompt) -> Scene | None:
    """What the picture of a prompt shows; None where that is not sure."""
    scene = prompt.metadata.get("scene")
    if isinstance(scene, Scene):
        return scene
    if len(prompt.images) != 1:
        raise UserError(
            f"the oracle judges what is said of one picture; prompt '{prompt.text[:60]}' shows {len(prompt.images)}"
        )
    seen = look(_pixels(prompt.images[0]))
    return Scene(seen.things, None, 255) if seen.sure else None


def _pixels(picture: Media) -> Tensor:
    """`[3, 64, 64]` in [0, 1]."""
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, bytes) or not Path(picture).is_file():
        raise UserError(f"the oracle looks at pictures in files: no such picture: {str(picture)[:80]}")
    with Image.open(picture) as opened:
        return torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).permute(2, 0, 1) / 255
