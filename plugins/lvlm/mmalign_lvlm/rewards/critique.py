"""Critique, then score, as the reward model of MM-RLHF. Zhang et al. 2025, arXiv:2502.10391.

A critic writes what is good and what is bad about an answer; a reward model scores the answer together with its critique.

    r = R(x, [y; c]),    c = critic(x, y)

Both are trained apart: the critic by `sft` on people's critiques, R by `bradley-terry` on answers with their critiques behind
them. Where it differs: in the paper both are heads of one network, and a pair's two losses are added.
"""

from dataclasses import replace
from typing import Any, Self

import torch

from mmalign.data.sources import conditioned
from mmalign.records import Samples, Scores
from mmalign.rewards.trained import RewardModel, built

ASK = "{prompt}\nAnswer: {answer}\nWhat is good and what is bad about this answer?"
CRITIQUE = "\nCritique: "
"""What stands between an answer and its critique in the text that is scored."""


class CritiquedReward:
    """What a reward model gives answers with the critiques that a critic wrote of them.

    critic: the `model` folder of the run that trained the critic, a `vlm`. It says what is likeliest.
    path: the `model` folder of the run that trained the reward model on texts of the form "answer\\nCritique: critique".
    ask: what the critic is asked; `{prompt}` is the prompt's text, `{answer}` the answer. As in the critic's training.
    """

    def __init__(self, critic: str, path: str, ask: str = ASK):
        folder, self.critic = built(critic, "likeliest")
        self.critic.model.weights.load(folder)
        self.judge = RewardModel(path)
        self.ask = ask

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.critic.model.to(device)
        self.judge.to(device)
        return self

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` and the values by head, as of `reward-model`."""
        if len(samples) == 0:
            return self.judge(samples)
        said = zip(samples.responses, self.critiques(samples), strict=True)
        return self.judge(replace(samples, made=[f"{answer}{CRITIQUE}{critique}" for answer, critique in said]))

    def critiques(self, samples: Samples) -> Any:
        """What the critic writes of each answer."""
        pairs = zip(samples.prompts, samples.responses, strict=True)
        asked = [conditioned(prompt, self.ask, {"answer": answer}) for prompt, answer in pairs]
        return self.critic.likeliest(asked).responses
