"""Pairs of a model's first answer and of the one that it gives after a review, where exactly one of both is right. He et al. 2024
(SCL), arXiv:2410.04055.

    y0 ~ p(x),    y1 ~ p(x, y0, review)        chosen = the right one, rejected = the wrong one, prompt = x alone

Trained on them by DPO with a tenth of the winner's supervised loss, a model learns to be right at once. Nobody is asked but a
rule or a reward that tells what is right.
"""

import gc
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from mmalign.builtin.files import read_rows, write_rows
from mmalign.console import say, track
from mmalign.data.cache import fingerprint
from mmalign.data.sources import PLAIN
from mmalign.data.texts import TextPrompts
from mmalign.errors import UserError
from mmalign.parts import Row
from mmalign.records import Prompt
from mmalign.rewards.generated import placed, rewards_of
from mmalign.rewards.implicit import policy_of
from mmalign.rewards.weighted import WeightedReward
from mmalign_lvlm.guidance.self_correction import REVIEWS, SelfCorrection


class SelfCorrections:
    """Pairs of a model's own two answers to a question, before and after a review, of which exactly one is right.

    path, split, template: the questions, as of `text-prompts`.
    model, sampling: what answers, as in a config, of an installed plugin. rewards: what scores answers, as in a config, each with
        its `weight`. right: the score from which on an answer is right; one without a score is neither right nor wrong.
    reviews: what the model is told after its first answer; the seed says which of them. seed: of the answers.
    batch_size: questions at a time.
    folder: where answers and scores are kept. They are made once of the same weights, questions and options, also by later runs.
    """

    def __init__(
        self,
        path: str,
        model: dict[str, Any],
        rewards: list[dict[str, Any]],
        right: float = 1.0,
        sampling: dict[str, Any] | None = None,
        reviews: Annotated[tuple[str, ...], Field(min_length=1)] = REVIEWS,
        template: str = PLAIN,
        split: str = "train",
        batch_size: PositiveInt = 8,
        seed: NonNegativeInt = 0,
        folder: str = "runs/self-corrections",
    ):
        from mmalign.engine import agreed

        self._prompts = TextPrompts(path, split, template)
        made = {"model": model, "rewards": rewards, "sampling": sampling, "reviews": reviews, "seed": seed}
        answered = agreed(lambda: self._answered(made, Path(folder), batch_size))
        self._pairs = [pair for row in answered for pair in pairs(row, right)]
        if not self._pairs:
            raise UserError(
                f"{path}: of no question exactly one answer is right, so there is nothing to learn: look at `right` and at "
                f"the scores in {folder}, or add questions"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Row:
        row, chosen, rejected = self._pairs[index]
        return {"prompt": self._prompts[row]["prompt"], "chosen": chosen, "rejected": rejected}

    def _answered(self, made: Mapping[str, Any], folder: Path, batch_size: int) -> list[dict[str, Any]]:
        """A row a question: both answers and their scores. Made unless they are kept."""
        from mmalign.engine import device

        prompts = [self._prompts[i]["prompt"] for i in range(len(self._prompts))]
        policy = policy_of("model", made["model"], made["sampling"])
        asked = [[prompt.text, prompt.metadata, [str(image) for image in prompt.images]] for prompt in prompts]
        settings = json.loads(json.dumps({**made, "asked": asked}, default=str))
        file = folder / f"{fingerprint([policy.network], settings)[:16]}.jsonl"
        if not file.is_file():
            policy.model, reward = policy.model.to(device()), placed(rewards_of(made["rewards"]), device())
            answering = _both(policy, reward, SelfCorrection(made["reviews"]), prompts, made["seed"], batch_size)
            write_rows(file, answering)
        del policy
        gc.collect()  # before the model that trains is loaded
        say(f"self-corrections: {len(prompts)} questions answered twice, see {file}")
        return read_rows(file)


def pairs(row: Mapping[str, Any], right: float) -> Iterator[tuple[int, str, str]]:
    """Of a question's two answers and their scores: its row, the right one and the wrong one, where exactly one is right."""
    if None in row["scores"]:
        return
    first, second = (score >= right for score in row["scores"])
    if first != second:
        one, other = row["answers"]
        yield (row["row"], one, other) if first else (row["row"], other, one)


def _both(
    policy: Any, reward: WeightedReward, correction: SelfCorrection, prompts: Sequence[Prompt], seed: int, size: int
) -> Iterator[dict[str, Any]]:
    """Both answers to each question, from a seed of its own, and their scores; None without one."""
    for start in track(range(0, len(prompts), size), "answering and reviewing"):
        asked = prompts[start : start + size]
        seeds = [seed * len(prompts) + start + i for i in range(len(asked))]
        first = policy.sample(asked, seeds)
        turns = (first, correction.again(policy, first, seeds))
        answers = zip(*(turn.responses for turn in turns), strict=True)
        scores = zip(*(reward.measured(turn).values.tolist() for turn in turns), strict=True)
        for i, (said, found) in enumerate(zip(answers, scores, strict=True)):
            known = [score if math.isfinite(score) else None for score in found]
            yield {"row": start + i, "prompt": asked[i].text, "answers": said, "scores": known}
