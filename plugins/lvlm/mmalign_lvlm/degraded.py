"""Pairs of answers and, beside each prompt, the same with its pictures shown worse, for `mdpo` and `povid`.

    crop    a piece of the picture, a random share of its area, as large as the picture was (mDPO; Wang et al. 2024,
            arXiv:2406.11839)
    noise   sqrt(ā) x + sqrt(1 - ā) ε at a step of a diffusion (POVID; Zhou et al. 2024, arXiv:2402.11411), with DDPM's linear
            schedule of 1000 steps, β from 1e-4 to 0.02, and x in [-1, 1]

What is shown of a row is the same whenever it is asked for.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from mmalign.data.sources import PLAIN
from mmalign.data.texts import TextPairs
from mmalign.errors import UserError
from mmalign.records import Media
from mmalign_lvlm import pictures

STEPS = 1000
_BETAS = np.linspace(1e-4, 0.02, STEPS)
_RATIOS = (3 / 4, 4 / 3)


class DegradedPairs(TextPairs):
    """Preference pairs of answers, with the column `degraded`: the prompt with its pictures shown worse.

    path, preset, split, template: as of `text-pairs`.
    how: "crop" or "noise". least, most: of a crop, between which shares of the area it has. step: of the noise, 1 to 1000.
    seed: which crops and noise.
    """

    def __init__(
        self,
        path: str,
        preset: str = "trl",
        split: str = "train",
        template: str = PLAIN,
        how: Literal["crop", "noise"] = "crop",
        least: Annotated[float, Field(gt=0, le=1)] = 0.01,
        most: Annotated[float, Field(gt=0, le=1)] = 0.2,
        step: Annotated[int, Field(ge=1, le=STEPS)] = 500,
        seed: int = 0,
    ):
        if least > most:
            raise UserError(f"least is {least}, which is more than most, {most}")
        super().__init__(path, preset, split, template)
        self._how, self._shares, self._step, self._seed = how, (least, most), step, seed

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        row = super().__getitem__(index)
        place, prompt = self._rows[index], row["prompt"]
        rng = random.Random(f"{self._seed} {place}")
        if not prompt.images:
            raise UserError(f"row {place + 1} shows no picture, so that nothing can be shown worse: leave it out")
        return {**row, "degraded": replace(prompt, images=tuple(self._worse(one, rng) for one in prompt.images))}

    def _worse(self, media: Media, rng: random.Random) -> Media:
        shown = pictures.read(media)
        worse = cropped(shown, *self._shares, rng) if self._how == "crop" else noised(shown, self._step, rng)
        return pictures.pixels(worse)


def cropped(picture: Image.Image, least: float, most: float, rng: random.Random) -> Image.Image:
    """A piece of `least` to `most` of the area, of 3:4 to 4:3, stretched to the size of the whole."""
    area = picture.width * picture.height * rng.uniform(least, most)
    ratio = math.exp(rng.uniform(*map(math.log, _RATIOS)))
    width = min(picture.width, max(1, round(math.sqrt(area * ratio))))
    height = min(picture.height, max(1, round(math.sqrt(area / ratio))))
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height)).resize(picture.size, Image.Resampling.BICUBIC)


def noised(picture: Image.Image, step: int, rng: random.Random) -> Image.Image:
    """The picture after `step` steps of a diffusion."""
    kept = float(np.prod(1 - _BETAS[:step]))
    x = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(x.shape, dtype=np.float32)
    worse = math.sqrt(kept) * x + math.sqrt(1 - kept) * noise
    return Image.fromarray(((worse + 1) * 127.5).round().clip(0, 255).astype(np.uint8))
