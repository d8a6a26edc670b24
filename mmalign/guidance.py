"""Sampling that rewards lead, as the command line or `evaluation.guidance` asks for it: which guidance, which rewards, and how
much of each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmalign import options
from mmalign.compose import Choice, Chosen
from mmalign.config import GuidancePart
from mmalign.document import value
from mmalign.errors import UserError
from mmalign.faults import validated
from mmalign.records import Prompt, Samples
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.specs import GuidanceSpec

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Lead:
    """Draws samples that are led. lead: what leads, as its spec builds it. reward: what it asks; None where nothing leads."""

    lead: Callable[..., Samples] | None = None
    reward: Any = None

    def __call__(self, policy: Any, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt."""
        if self.lead is None:
            samples: Samples = policy.sample(prompts, seeds)
            return samples
        return self.lead(policy, self.reward, prompts, seeds)

    def warnings(self) -> Sequence[str]:
        """What went wrong since this was asked last, in sentences."""
        told: Sequence[str] = self.lead.warnings() if self.lead is not None and hasattr(self.lead, "warnings") else ()
        return told


def sampler(chosen: Chosen, guidance: str | None, weights: Sequence[str]) -> Lead:
    """How samples are drawn. Raises UserError where the model or a reward is not what the guidance needs.

    guidance: a name, or `{type: name, option: value}`; None is none. That of `evaluation.guidance` has the options that it
        has there. weights: `reward=number`, where a reward is one of the config's, or any other by its name in the catalogue,
        or a dimension of the guidance's own reward; without any, those of the config. One of weight 0 is left out, and when
        none is left samples are plain, bit by bit.
    """
    if guidance is None:
        if weights:
            raise UserError(
                "--weight: there is nothing to weigh without --guidance: name one of `mmalign list guidance`"
            )
        return Lead()
    part = _part(chosen, guidance)
    offer = chosen.plugins.catalogue.find("guidance", part.type)
    choice = Choice("--guidance", offer, options.complete(offer.spec, part.options))
    given = dict(_weight(one) for one in weights) if weights else _weights(chosen, part)
    if not given and offer.spec.reward != "own":
        raise UserError(
            "--guidance: the config has no `rewards` to be led by: name one, for example --weight clip-score=1"
        )
    for key, message in _misfits(chosen, offer.spec, given):
        raise UserError(f"--weight {key}: {message}" if key else f"--guidance: {message}")
    return _built(chosen, choice, given)


def check(chosen: Chosen) -> None:
    """Raises UserError that lists what is wrong with the config's `evaluation.guidance`, with file and line."""
    part = chosen.config.evaluation.guidance
    if part is None or chosen.guidance is None:
        return
    spec, weights, key = chosen.guidance.offer.spec, _weights(chosen, part), "evaluation.guidance"
    faults = [
        (f"{key}.weights.{name}" if name in part.weights else key, message)
        for name, message in _misfits(chosen, spec, weights)
    ]
    if not weights and spec.reward != "own":
        faults.append((key, "there are no rewards to be led by: name some in its `weights`, or in `rewards`"))
    if faults:
        raise chosen.document.refusal(faults)


def of_config(chosen: Chosen, device: torch.device | str = "cpu") -> Lead:
    """What leads as `evaluation.guidance` says."""
    part = chosen.config.evaluation.guidance
    assert part is not None
    assert chosen.guidance is not None
    return _built(chosen, chosen.guidance, _weights(chosen, part), device)


# ---- inside


def _part(chosen: Chosen, guidance: str) -> GuidancePart:
    """What the command line names, laid over the config's own where it is of the same type."""
    given, own = value(guidance), chosen.config.evaluation.guidance
    named = {"type": given} if isinstance(given, str) else given
    if own is not None and isinstance(named, Mapping) and named.get("type") == own.type:
        named = {**own.model_dump(), **named}
    part, faults = validated(GuidancePart, named)
    if part is None:
        raise UserError("\n".join(f"--guidance: {key}: {message}" for key, message in faults))
    return part


def _weights(chosen: Chosen, part: GuidancePart) -> Weights:
    """What it says, or else the config's `rewards`, where the guidance does not bring one of its own."""
    spec = chosen.plugins.catalogue.find("guidance", part.type).spec
    if part.weights or spec.reward == "own":
        return part.weights
    return {reward.label: reward.weight for reward in chosen.config.rewards}


def _misfits(chosen: Chosen, spec: GuidanceSpec, weights: Weights) -> Iterator[tuple[str, str]]:
    """What does not fit together: needs ⊆ offers. A fault is of a reward's weight, or of the guidance itself, ""."""
    if missing := spec.needs - chosen.process.offers:
        told = f"'{spec.name}' needs {', '.join(sorted(missing))}, which model '{chosen.model.offer.spec.name}'"
        yield "", f"{told} does not offer"
    for name, weight in weights.items() if spec.reward != "own" else ():
        try:
            reward = _reward(chosen, name)
        except UserError as error:
            yield name, str(error)
            continue
        if weight and spec.reward == "differentiable" and not reward.offer.spec.differentiable:
            yield name, f"'{spec.name}' needs a reward that is differentiable: see `mmalign list`"


def _built(chosen: Chosen, choice: Choice, weights: Weights, device: torch.device | str = "cpu") -> Lead:
    """weights: by reward, or by dimension of the guidance's own."""
    asked = {name: weight for name, weight in weights.items() if weight != 0}
    if weights and not asked:
        return Lead()
    lead = _on(choice.build(), device)
    if choice.offer.spec.reward == "own":
        return Lead(lead, asked)
    checked = [CheckedReward(name, _on(_reward(chosen, name).build(), device)) for name in asked]
    return Lead(lead, WeightedReward(checked, list(asked.values())).measured)


def _weight(given: str) -> tuple[str, float]:
    name, _, text = given.partition("=")
    number = value(text) if text else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise UserError(f"--weight: '{given}' is not of the form REWARD=NUMBER, for example clip-score=1")
    return name, float(number)


def _reward(chosen: Chosen, name: str) -> Choice:
    """The reward that the config calls so, or else the one of that name with its defaults."""
    known = dict(_named(chosen))
    if name in known:
        return known[name]
    offer = chosen.plugins.catalogue.find("reward", name)
    return Choice(f"--weight {name}", offer, options.complete(offer.spec, {}))


def _named(chosen: Chosen) -> Iterator[tuple[str, Choice]]:
    """The config's rewards by name; those that train are asked first."""
    yield from zip((part.label for part in chosen.config.evaluation.rewards), chosen.judges, strict=True)
    yield from zip((part.label for part in chosen.config.rewards), chosen.rewards, strict=True)


def _on(part: Any, device: torch.device | str) -> Any:
    return part.to(device) if hasattr(part, "to") else part
