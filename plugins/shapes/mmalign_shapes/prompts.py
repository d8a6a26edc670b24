"""Prompts about two things, split so that no combination of the held-out set ever occurs in training."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.errors import UserError
from mmalign.records import Prompt
from mmalign_shapes.grammar import Caption, say
from mmalign_shapes.scenes import RELATIONS, Kind, kinds

SPLITS = ("train", "held-out")


def captions(split: str) -> list[Caption]:
    """Every two-thing caption of a split, in a fixed order. About one combination in five is held out."""
    pairs = [(a, b) for a in kinds() for b in kinds() if a.color != b.color and a.shape != b.shape]
    everything = [Caption(pair, relation) for pair in pairs for relation in RELATIONS]
    return [caption for caption in everything if is_in(split, caption.kinds)]


def is_in(split: str, things: Sequence[Kind]) -> bool:
    """Whether a split has this combination of things, in whatever order. Raises UserError for an unknown split."""
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}, not '{split}'")
    # By the unordered combination, so that neither another order nor another relation leaks it.
    combination = " and ".join(sorted(map(str, things)))
    held_out = hashlib.sha256(combination.encode()).digest()[0] % 5 == 0
    return held_out == (split == "held-out")


class ShapesPrompts:
    """Prompts of the shapes world, such as "a red circle left of a blue square".

    split: "train" or "held-out"; a combination of things is in one of them only. size: how many. seed: which ones.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0):
        chosen = captions(split)
        random.Random(seed).shuffle(chosen)
        if not 1 <= size <= len(chosen):
            raise UserError(f"size must lie in 1 to {len(chosen)} for split '{split}', not {size}")
        self._prompts = [Prompt(say(caption)) for caption in chosen[:size]]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"prompt": self._prompts[index]}
