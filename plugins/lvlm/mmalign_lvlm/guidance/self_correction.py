"""Self-correction in two turns. He et al. 2024 (SCL), arXiv:2410.04055.

    y0 ~ p(x),    y1 ~ p(x, y0, review)

A model answers, is asked to review its answer, and answers again. That this alone, without training, helps little is a finding of
the paper: see it as `evaluation.guidance`. What helps is to learn from both answers (`mmalign_lvlm.corrections`).

Where it differs: the words that ask for the review are our own.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from mmalign.records import Prompt, Samples, Turn
from mmalign.samplers.guided import another

REVIEWS = (
    "Look at the picture again and check your answer. Then answer the question once more, in the form that it asks for.",
    "Review your answer: is anything wrong with it? Say only the answer, corrected where it has to be.",
    "Are you sure? Think about it again, and say nothing but the answer that you now hold to be right.",
    "There may be a mistake in your answer. If you find one, answer again without it; if not, repeat your answer.",
)


class SelfCorrection:
    """The model answers, reviews its answer, and answers again: that one is the sample. No reward is followed.

    The first answer is the plain sample of the same seed. The rows of `self-corrections` are pairs of both.

    reviews: what the model is told after its first answer; the seed says which of them.
    """

    def __init__(self, reviews: Annotated[tuple[str, ...], Field(min_length=1)] = REVIEWS):
        self.reviews = reviews

    def __call__(self, policy: Any, reward: None, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One second answer a prompt."""
        return self.again(policy, policy.sample(prompts, seeds), seeds)

    def again(self, policy: Any, first: Samples, seeds: Sequence[int]) -> Samples:
        """The second answers, after the `first` and a review of each. They belong to the same prompts and seeds."""
        turns = zip(first.prompts, first.responses, seeds, strict=True)
        second: Samples = policy.sample([self.reviewed(*turn) for turn in turns], [another(seed, 1) for seed in seeds])
        return replace(second, prompts=first.prompts, seeds=seeds)

    def reviewed(self, prompt: Prompt, answer: str, seed: int) -> Prompt:
        """What the model is asked after its first answer."""
        review = random.Random(seed).choice(self.reviews)
        return replace(prompt, text=review, history=[*prompt.turns, Turn("assistant", answer)])
