"""Videos to ask for, true videos to learn from, and pairs of worse ones that simulated annotators have judged.

Splits are by combination of colour, shape and motion, see `moving_captions`. Videos are drawn when they are asked for.
"""

import random
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Prompt
from mmalign_shapes import moving
from mmalign_shapes.moving import WRONGS, Clip
from mmalign_shapes.moving_captions import Movers, captions, say
from mmalign_shapes.moving_oracle import DIMENSIONS, rate

_SPOILED = 0.5
"""How probably a video of a pair is made worse, in each dimension."""


class ShapesVideoPrompts:
    """Prompts for videos, such as "a red circle moves left".

    split: "train" or "held-out"; a combination of colour, shape and motion is in one of them only. size: how many; with more
    than there are, all come before one comes again. seed: which ones. things: of how many things a prompt speaks, 1 or 2.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0, things: int = 1):
        if size < 1:
            raise UserError(f"size must be at least 1, not {size}")
        self._captions = captions(split, things)
        random.Random(seed).shuffle(self._captions)
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {"prompt": Prompt(say(self._caption(index)))}

    def _caption(self, index: int) -> Movers:
        if not 0 <= index < self._size:
            raise IndexError(index)
        return self._captions[index % len(self._captions)]

    def _rng(self, index: int) -> random.Random:
        """Random numbers of a row's own, so that it is the same whenever it is asked for."""
        return random.Random(f"{self._seed} {index}")


class ShapesVideos(ShapesVideoPrompts):
    """True videos `[9, 3, 64, 64]` with their captions, for supervised objectives.

    split, size, seed, things: as for prompts; a caption that comes again has another video.
    """

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        drawn = moving.pixels([moving.arrange(self._rng(index), self._caption(index))])[0]
        return {**super().__getitem__(index), "sample": drawn}


class ShapesVideoPairs(ShapesVideoPrompts):
    """Two videos of a caption, each spoiled in some dimensions, and which is better in VQ, in MQ and in TA: 1 the first, -1 the
    second, 0 neither.

    A simulated annotator judges: of each video the oracle's score and an error of its own, and neither is better where the
    two are near each other.

    split, size, seed, things: as for prompts. noise: standard deviation of the annotator's errors, in scores of 0 to 1.
    indifference: scores that differ by less are a tie.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 512,
        seed: int = 0,
        things: int = 1,
        noise: float = 0.1,
        indifference: float = 0.1,
    ):
        if not (noise >= 0 and indifference >= 0):
            raise UserError(f"noise and indifference must be 0 or more, not {noise} and {indifference}")
        super().__init__(split, size, seed, things)
        self._noise, self._indifference = noise, indifference

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        rng, caption = self._rng(index), self._caption(index)
        first, second = moving.pixels([spoiled(moving.arrange(rng, caption), rng) for _ in range(2)])
        preferences = annotated(first, second, caption, rng, self._noise, self._indifference)
        return {
            **super().__getitem__(index),
            "first": first,
            "second": second,
            "preferences": preferences,
            "strengths": {},
        }


def spoiled(clip: Clip, rng: random.Random) -> Clip:
    """The video with something wrong in some of the dimensions, or in none."""
    for dimension in ("TA", "MQ", "VQ"):  # in this order no wrong hides another
        if rng.random() < _SPOILED:
            clip = rng.choice(WRONGS[dimension])(clip, rng)
    return clip


def annotated(
    first: Tensor, second: Tensor, caption: Movers, rng: random.Random, noise: float, indifference: float
) -> dict[str, float]:
    """By dimension, which of two videos `[F, 3, 64, 64]` an annotator prefers: 1 the first, -1 the second, 0 neither."""
    one, other = rate(first, caption), rate(second, caption)
    found = {}
    for name in DIMENSIONS:
        gap = getattr(one, name) - getattr(other, name) + rng.gauss(0, noise) - rng.gauss(0, noise)
        found[name] = 0.0 if abs(gap) < indifference else 1.0 if gap > 0 else -1.0
    return found
