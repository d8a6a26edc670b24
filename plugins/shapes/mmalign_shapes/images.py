"""Pictures to describe, true descriptions of them, and hallucinated ones with corrections or with labels.

Splits are by combination of things, as those of the prompts. Pictures are drawn when they are asked for.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.errors import UserError
from mmalign.records import Prompt, Segment
from mmalign_shapes import render
from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.oracle import Judged, judged
from mmalign_shapes.prompts import is_in
from mmalign_shapes.scenes import Scene, arrange, kinds
from mmalign_shapes.statements import TYPES

REQUEST = "Describe the picture."
_SENTENCE = re.compile(r"[^\s.!?][^.!?\n]*[.!?]?")
_COUNTS = (2, 2, 3, 3, 4)
"""How many things a scene has, each as often as it stands here."""


def scenes(split: str, size: int, seed: int) -> list[Scene]:
    """Scenes of two to four things."""
    rng = random.Random(f"{split} {seed}")
    return [_scene(split, rng) for _ in range(size)]


class ShapesImages:
    """Pictures of two to four things with the request to describe them; the scene is in the prompt's metadata.

    split: "train" or "held-out"; a combination of things is in one of them only. size: how many. seed: which ones.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0):
        if size < 1:
            raise UserError(f"size must be at least 1, not {size}")
        self._scenes = scenes(split, size, seed)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        scene = self._scenes[index]
        return {"prompt": Prompt(REQUEST, {"scene": scene}, tuple(render.pixels([scene])))}

    def _rng(self, index: int) -> random.Random:
        """Random numbers of a row's own, so that it is the same whenever it is asked for."""
        return random.Random(f"{self._seed} {index}")


class ShapesCaptions(ShapesImages):
    """Pictures with a true description each, for supervised objectives.

    split, size, seed: as for pictures.
    """

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {**super().__getitem__(index), "sample": str(describe(self._scenes[index], self._rng(index)))}


class ShapesCorrections(ShapesImages):
    """Pairs of a description with false statements and the same corrected, word by word, as people correct for RLHF-V.

    split, size, seed: as for pictures. share: of its statements each is false with this probability, and one always is.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0, share: float = 0.3):
        if not 0 < share <= 1:
            raise UserError(f"share must lie above 0 and not above 1, not {share}")
        super().__init__(split, size, seed)
        self._share = share

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        rng, scene = self._rng(index), self._scenes[index]
        true = wrong = describe(scene, rng)
        while wrong == true:
            wrong = hallucinated(true, scene, self._share, rng)
        return {**super().__getitem__(index), "chosen": str(true), "rejected": str(wrong)}


class ShapesFeedback(ShapesImages):
    """Descriptions whose sentences the oracle labelled, as an AI's feedback would be: in each type of statement a sentence is
    absent, faithful or hallucinated.

    split, size, seed: as for pictures. share: of its statements each is false with this probability.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0, share: float = 0.3):
        if not 0 <= share <= 1:
            raise UserError(f"share must lie in 0 to 1, not {share}")
        super().__init__(split, size, seed)
        self._share = share

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        rng, scene = self._rng(index), self._scenes[index]
        text = str(hallucinated(describe(scene, rng), scene, self._share, rng))
        return {**super().__getitem__(index), "sample": text, "segments": labelled(text, scene)}


def labelled(text: str, scene: Scene) -> list[Segment]:
    """The sentences of a text with their classes. One that says again what was said before is absent."""
    said = judged(text, scene)
    return [Segment(*sentence.span(), _classes(said, *sentence.span())) for sentence in _SENTENCE.finditer(text)]


def _classes(said: Sequence[Judged], start: int, end: int) -> dict[str, str]:
    """By type, the class of what stands in `text[start:end]`."""
    own = [(one.statement.claim, one.true) for one in said if start <= one.statement.start < end]
    true = {kind: [true for claim, true in own if claim and claim.type == kind] for kind in TYPES}
    return {
        kind: "hallucinated" if False in told else "faithful" if True in told else "absent"
        for kind, told in true.items()
    }


def _scene(split: str, rng: random.Random) -> Scene:
    """The combination is chosen first, for finding places takes longer."""
    while True:
        chosen = rng.sample(kinds(), rng.choice(_COUNTS))
        if is_in(split, chosen):
            return arrange(rng, chosen)
