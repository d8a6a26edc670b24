"""VideoReward as a reward: what a model of ours, or the published one, says of videos. Liu et al. 2025, arXiv:2501.13918."""

from pathlib import Path
from typing import Any, Literal

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.records import Samples
from mmalign.rewards.shared import shared, written
from mmalign.rewards.trained import Scored
from mmalign.rewards.trained import load as load_run
from mmalign_video.models.judge import TEMPLATE


class VideoReward(Scored):
    """What VideoReward says of videos: the mean of its dimensions, each on the scale of its own training, or one of them.

    Rewards of one path, as one for each dimension, share one model.

    path: the `model` folder of a run that trained a `video-reward`, or a folder as VideoAlign publishes it, with
        model_config.json and checkpoint-N. head: "VQ", "MQ" or "TA"; None is the mean.
    standardize: each dimension less its mean, divided by its deviation, as they are kept with the weights.
    base: of a published model, the one that it was trained from, if not the one it names.
    template: of a published model, the words that it was trained with, or a text file with them: `{prompt}` is the prompt, and
        each dimension's token stands in it once. They are not part of the layout; without them it rates by ours.
    dtype: of a published model's frozen weights.
    """

    def __init__(
        self,
        path: str,
        head: str | None = None,
        standardize: bool = True,
        base: str | None = None,
        template: str = TEMPLATE,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ):
        from mmalign_video.rewards import published

        folder = Path(locate(path))
        words = _words(template)

        def load() -> Any:
            return published.load(folder, base, words, dtype) if published.is_published(folder) else load_run(path)

        key = ("video-reward", path, written(folder), base, words, dtype)
        super().__init__(shared(key, load), head, standardize)

    def media(self, samples: Samples) -> list[Any]:
        """As the model is to see them. Raises UserError for what is no video."""
        if samples.media.ndim != 5:
            raise UserError(f"this reward rates videos [B, F, 3, H, W], not media {list(samples.media.shape)}")
        return super().media(samples)


def _words(template: str) -> str:
    """The template, or what the file of that name holds. Raises UserError where there is no such file."""
    if not template.endswith(".txt"):
        return template
    if not Path(template).is_file():
        raise UserError(f"template: no such file: {template}")
    return Path(template).read_text(encoding="utf-8")
