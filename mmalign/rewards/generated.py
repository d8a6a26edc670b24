"""Texts as prompts for a generator: how good what it draws from them is. So a rewriter of prompts is aligned, while the generator
stays as it is: Prompt-A-Video, Ji et al. 2024, arXiv:2412.15156; Promptist, Hao et al. 2022, arXiv:2212.09611.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from pydantic import PositiveInt

from mmalign import options, plugins
from mmalign.errors import UserError
from mmalign.records import Prompt, Samples, Scores
from mmalign.rewards.implicit import policy_of
from mmalign.rewards.shared import shared
from mmalign.rewards.weighted import CheckedReward, WeightedReward


class Generated:
    """The weighted sum of rewards of what a generator draws from each text, for the prompt that was to be rewritten.

    model: the generator, as the `model` of a config, of an installed plugin. sampling: as the config's, of the generator.
    rewards: what scores its samples, as in a config, each with its `weight`.
    draws: how many samples of a text have their mean as its score; all texts share their seeds.
    batch_size: samples drawn at a time.
    """

    def __init__(
        self,
        model: dict[str, Any],
        rewards: list[dict[str, Any]],
        sampling: dict[str, Any] | None = None,
        draws: PositiveInt = 1,
        batch_size: PositiveInt = 8,
    ):
        self.policy = policy_of("model", model, sampling)
        self.reward = rewards_of(rewards)
        self.draws, self.batch_size = draws, batch_size

    def to(self, device: torch.device | str) -> Self:
        """Move the weights of the generator and of its rewards."""
        self.policy.model = self.policy.model.to(device)
        placed(self.reward, device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]`; `dimensions` holds the means of each reward. An empty text has no score."""
        rewritten = [replace(p, text=text) for p, text in zip(samples.prompts, samples.responses, strict=True)]
        found = [self._scored(samples.prompts, rewritten, seed) for seed in range(self.draws if len(samples) else 0)]
        if not found:
            return Scores(torch.zeros(0))
        values = torch.stack([one.values for one in found]).mean(dim=0)
        said = torch.tensor([bool(text.strip()) for text in samples.responses], device=values.device)
        names = found[0].dimensions
        means = {name: torch.stack([one.dimensions[name] for one in found]).mean(dim=0) for name in names}
        return Scores(torch.where(said, values, torch.nan), means)

    def _scored(self, asked: Sequence[Prompt], rewritten: Sequence[Prompt], seed: int) -> Scores:
        """What the rewards say of one sample a text."""
        starts = range(0, len(rewritten), self.batch_size)
        pieces = [rewritten[i : i + self.batch_size] for i in starts]
        drawn = Samples.joined([self.policy.sample(piece, [seed] * len(piece)) for piece in pieces])
        return self.reward.measured(replace(drawn, prompts=asked), at_once=self.batch_size)


def placed(reward: WeightedReward, device: torch.device | str) -> WeightedReward:
    """The same rewards, their weights on `device`."""
    for one in reward.rewards:
        one.to(device)
    return reward


def rewards_of(given: Sequence[Mapping[str, Any]]) -> WeightedReward:
    """The rewards that sections of a config name."""
    if not given:
        raise UserError("rewards: name at least one that scores what is drawn")
    built = [reward_of(section, f"rewards.{i}") for i, section in enumerate(given)]
    return WeightedReward(built, [float(section.get("weight", 1.0)) for section in given])


def reward_of(section: Mapping[str, Any], key: str) -> CheckedReward:
    """The reward that a section of a config names. key: where the section stands. Raises UserError where it names none."""
    rest = {name: value for name, value in section.items() if name not in ("weight", "name")}
    spec, given = _named("reward", rest, key)
    return CheckedReward(section.get("name", spec.name), spec.load()(**given))


def judge_of(section: Mapping[str, Any], key: str, needs: Collection[str]) -> Any:
    """The judge that a section of a config names, which offers all that `needs` names; rewards with equal sections share one.
    Raises UserError where it does not.
    """
    spec, given = _named("judge", section, key)
    if missing := sorted(set(needs) - spec.offers):
        raise UserError(f"{key}: judge '{spec.name}' gives no {' and no '.join(missing)}: name one that does")
    return shared(("judge", json.dumps(section, sort_keys=True, default=str)), lambda: spec.load()(**given))


def _named(kind: str, section: Mapping[str, Any], key: str) -> tuple[Any, dict[str, Any]]:
    """The spec of a section's `type`, and its other keys as arguments."""
    rest = dict(section)
    if "type" not in rest:
        raise UserError(f"{key}: missing `type`: write it as the {kind} of a config")
    spec = plugins.find(kind, rest.pop("type")).spec
    return spec, options.parsed(spec, rest)
