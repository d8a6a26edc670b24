"""The run's reward: a weighted sum of named, checked rewards.

r(x) = sum_k w_k r_k(x)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmalign.errors import UserError
from mmalign.records import Samples, Scores


@dataclass(frozen=True)
class CheckedReward:
    """A plugin's reward under its name in the config: whatever it returns becomes `Scores` with values `[B]`."""

    name: str
    function: Callable[[Samples], Any]

    def __call__(self, samples: Samples) -> Scores:
        """Score samples. Raises UserError when the reward refuses them, or does not give one number a sample."""
        try:
            answer = self.function(samples)
        except UserError as error:
            raise UserError(f"reward '{self.name}': {error}") from error
        scores = answer if isinstance(answer, Scores) else Scores(answer)
        if not isinstance(scores.values, torch.Tensor) or scores.values.shape != (len(samples),):
            got = getattr(scores.values, "shape", type(scores.values).__name__)
            raise UserError(f"reward '{self.name}' must return one score a sample, [{len(samples)}]; it returned {got}")
        return scores


class WeightedReward:
    """The sum of several rewards with their weights; each is also kept raw, for the log."""

    def __init__(self, rewards: Sequence[CheckedReward], weights: Sequence[float]):
        self.rewards = list(rewards)
        self.weights = list(weights)
        self._raw: dict[str, list[torch.Tensor]] = defaultdict(list)

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` weighted sums; `dimensions` holds each reward's raw scores by name."""
        raw = {reward.name: reward(samples).values for reward in self.rewards}
        for name, values in raw.items():
            self._raw[name].append(values.detach())
        total = sum(weight * values for weight, values in zip(self.weights, raw.values(), strict=True))
        assert isinstance(total, torch.Tensor)
        return Scores(total, raw)

    def drain(self) -> dict[str, torch.Tensor]:
        """Mean raw score by name, `reward/<name>`, of all samples scored since the last drain."""
        means = {f"reward/{name}": torch.cat(values).float().mean() for name, values in self._raw.items()}
        self._raw.clear()
        return means
