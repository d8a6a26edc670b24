"""The oracle as a reward, of pictures, videos and captions: what is right is right, and nobody can argue with it by gradient."""

from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.metrics import ratio
from mmalign.records import Samples, Scores
from mmalign_shapes import moving_oracle
from mmalign_shapes.metrics import counted, scene_of
from mmalign_shapes.moving_oracle import Quality
from mmalign_shapes.oracle import judge_batch
from mmalign_shapes.scenes import Scene
from mmalign_shapes.statements import TYPES


class OracleReward:
    """1 for a picture that shows exactly its prompt, 0 for one that does not or of which the oracle is unsure."""

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` of 0 and 1; `dimensions["unsure"]` is 1 where the oracle could not tell. NaN pixels score NaN."""
        try:
            correct, unsure = judge_batch(samples.media, samples.texts)
        except ValueError as error:
            raise UserError(f"the oracle judges pictures of shapes only: {error}") from None
        values = torch.from_numpy(correct).to(samples.media)
        known = torch.isfinite(samples.media).flatten(1).all(dim=1)
        return Scores(torch.where(known, values, torch.nan), {"unsure": _like(unsure, samples)})


def _like(flags: object, samples: Samples) -> Tensor:
    return torch.as_tensor(flags).to(samples.media)


class VideoOracle:
    """How good videos of moving shapes are, in 0 to 1: the mean of visual quality, motion quality and text alignment, or one.

    dimension: "VQ", "MQ" or "TA" (see `mmalign_shapes.moving_oracle`), or "mean" of the three. To evaluate each by itself,
    name the reward three times: `{type: video-oracle, name: VQ, dimension: VQ}`. They look at each video once, all together.
    """

    def __init__(self, dimension: Literal["mean", "VQ", "MQ", "TA"] = "mean"):
        self._dimension = dimension

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` for videos `[B, F, 3, 64, 64]`; NaN pixels score NaN.

        dimensions, `[B]` each: `VQ`, `MQ`, `TA`, and `unsure`, 1 where the oracle could not read the video; MQ and TA are 0
        there. places: where things move that are right in all dimensions but evenness. Raises UserError for pictures, and for
        prompts outside the grammar.
        """
        media = samples.media
        if media.ndim != 5 and len(samples):
            raise UserError(f"the oracle of videos judges videos [B, F, 3, 64, 64], not media {list(media.shape)}")
        try:
            rated = [_rated(video, text) for video, text in zip(media, samples.texts, strict=True)]
        except ValueError as error:
            raise UserError(f"the oracle judges videos of shapes only: {error}") from None
        dimensions = {
            name: torch.tensor([float(getattr(one, name)) for one in rated]).to(media)
            for name in (*moving_oracle.DIMENSIONS, "unsure")
        }
        names = moving_oracle.DIMENSIONS if self._dimension == "mean" else (self._dimension,)
        values = torch.stack([dimensions[name] for name in names]).mean(dim=0)
        known = torch.where(torch.isfinite(media).flatten(1).all(dim=1), values, torch.nan)
        places = torch.stack([one.stays() for one in rated]).to(media) if rated else None
        return Scores(known, dimensions, places=places)


_LATELY = 1024
_RATINGS: dict[tuple[bytes, torch.Size, str], Quality] = {}
"""What was said of the `_LATELY` videos that were rated last, by their pixels and captions."""


def _rated(video: Tensor, text: str) -> Quality:
    """As `moving_oracle.rate`, which takes a hundred times as long as finding out that a video was rated before."""
    pixels = video.detach().cpu().double().contiguous()  # exact, whatever the precision
    key = (blake2b(pixels.numpy()).digest(), pixels.shape, text)
    if key not in _RATINGS:
        _RATINGS[key] = moving_oracle.rate(video, text)
        while len(_RATINGS) > _LATELY:
            del _RATINGS[next(iter(_RATINGS))]
    return _RATINGS[key]


class CaptionOracle:
    """Minus the share of an answer's statements that are false of the picture: 0 where all are true, -1 where none is.

    A statement counts once however often it is said; one about a thing that is not there does not count, for the thing does
    already. An answer without statements scores -1: whoever says nothing says nothing true.
    """

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` in -1 to 0. Prompts carry their scene, as those of `shapes-images` do; else a UserError.

        dimensions, `[B]` each: `hallucination`, the share of statements that are false (0 without statements, as in CHAIR),
        and so for those of each type: `existence`, `attribute`, `relation`; `recall`, the share of the scene's things that
        are named with colour and shape; `statements`, how many; `length`, in words.
        """
        rows = [_told(text, scene_of(prompt)) for prompt, text in zip(samples.prompts, samples.responses, strict=True)]
        columns = {name: torch.tensor([row[name] for row in rows]) for name in _DIMENSIONS}
        return Scores(-torch.where(columns["statements"] == 0, 1.0, columns["hallucination"]), columns)


class CaptionRecall(CaptionOracle):
    """The share of a picture's things that an answer names with colour and shape: what is lost by saying less."""

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` in 0 to 1; the dimensions of `caption-oracle`."""
        dimensions = super().__call__(samples).dimensions
        return Scores(dimensions["recall"], dimensions)


_DIMENSIONS = ("hallucination", *TYPES, "recall", "statements", "length")


def _told(text: str, scene: Scene) -> dict[str, float]:
    """The dimensions of one answer."""
    found = counted(text, scene)
    return {
        "hallucination": ratio(found["false"], found["statements"]),
        **{name: ratio(found[f"false {name}"], found[f"statements {name}"]) for name in TYPES},
        "recall": found["named"] / found["things"],
        "statements": float(found["statements"]),
        "length": float(found["words"]),
    }
