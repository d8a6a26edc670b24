"""Sampling that rewards lead, as `evaluation.guidance` or the command line asks for it: which guidance, what it follows, and how
much of each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmalign.choices import Choice, Picker
from mmalign.config import GuidancePart, LeadingPart
from mmalign.document import value
from mmalign.errors import UserError
from mmalign.faults import Fault, validated
from mmalign.records import Prompt, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.samplers.guided import Reward

if TYPE_CHECKING:
    from mmalign.compose import Chosen


_FOLLOWS = {"own": "a reward of its own", "none": "no reward"}
"""What a guidance follows that follows none of the config's rewards."""


@dataclass(frozen=True)
class Followed:
    """The weighted sum of rewards that samples follow. They are not logged."""

    rewards: WeightedReward

    @property
    def compares(self) -> bool:
        """Whether a score depends on the samples that are scored together."""
        return any(getattr(one.function, "compares", False) for one in self.rewards.rewards)

    def __call__(self, samples: Samples) -> Scores:
        """`[B]`."""
        return self.rewards.measured(samples)


@dataclass(frozen=True)
class Lead:
    """Draws samples that are led.

    guidance: what leads, as its spec builds it; None where nothing does. reward: what it follows, or None for one of its own.
    """

    guidance: Callable[..., Samples] | None = None
    reward: Reward | None = None

    def __call__(self, policy: Any, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt."""
        if self.guidance is None:
            samples: Samples = policy.sample(prompts, seeds)
            return samples
        return self.guidance(policy, self.reward, prompts, seeds)

    def warnings(self) -> Sequence[str]:
        """What went wrong since this was asked last, in sentences."""
        told: Callable[[], Sequence[str]] | None = getattr(self.guidance, "warnings", None)
        return told() if told else ()


def sampler(chosen: "Chosen", guidance: str | None, weights: Sequence[str]) -> Lead:
    """How samples are drawn. Raises UserError where the model or a reward is not what the guidance needs.

    guidance: a name, or `{type: name, option: value}`; None is none. That of `evaluation.guidance` has the options that it
        has there. weights: `reward=number`, where a reward is one of the config's, or any other by its name in the catalogue,
        or a dimension of the guidance's own reward; without any, those of `evaluation.guidance`, or else the config's
        `rewards`. One of weight 0 is left out, and when none is left samples are plain, bit by bit.
    """
    if guidance is None:
        if weights:
            raise UserError(
                "--weight: there is nothing to weigh without --guidance: name one of `mmalign list guidance`"
            )
        return Lead()
    part = _weighed(chosen, _named(chosen, guidance), dict(map(_weight, weights)))
    faults: list[Fault] = []
    lead, rewards = picked(Picker(chosen.plugins, faults), "--guidance", part)
    if not faults:
        faults += misled(lead, rewards, chosen.model, chosen.process)
    if faults:
        told = [f"{key}: {message}{_instead(part.type, key, message)}" for key, message in faults]
        raise UserError("\n".join(told))
    return built(lead, part.rewards, rewards)


def picked(pick: Picker, key: str, part: GuidancePart | None) -> tuple[Any, list[Any]]:
    """A guidance and the rewards that it follows; None for what cannot be picked."""
    if part is None:
        return None, []
    rewards = [pick(f"{key}.rewards.{i}", "reward", one) for i, one in enumerate(part.rewards)]
    return pick(key, "guidance", part), rewards


def misled(guidance: Choice, rewards: Sequence[Choice], model: Choice, process: Any) -> Iterator[Fault]:
    """What a guidance needs and the model or its rewards do not offer."""
    spec = guidance.offer.spec
    if missing := spec.needs - process.offers:
        told = f"'{spec.name}' needs {', '.join(sorted(missing))}"
        yield guidance.key, f"{told}, which model '{model.offer.spec.name}' does not offer"
    if spec.reward in _FOLLOWS:
        for choice in rewards:
            yield choice.key, f"'{spec.name}' follows {_FOLLOWS[spec.reward]}: leave `rewards` out"
    elif not rewards:
        told = "name `rewards` that it follows, or weights on the command line, as in --weight clip-score=1"
        yield guidance.key, f"'{spec.name}' has no `rewards` to be led by: {told}"
    for choice in rewards if spec.reward == "differentiable" else ():
        if not choice.offer.spec.differentiable:
            yield choice.key, f"'{spec.name}' needs a reward that is differentiable: see `mmalign list`"


def built(
    guidance: Choice, parts: Sequence[LeadingPart], rewards: Sequence[Choice], device: torch.device | str = "cpu"
) -> Lead:
    """What leads. parts: how much each of `rewards` counts."""
    asked = [(part, choice) for part, choice in zip(parts, rewards, strict=True) if part.weight != 0]
    if parts and not asked:
        return Lead()
    lead = guidance.build(device)
    if not asked:
        return Lead(lead)
    checked = [CheckedReward(part.label, choice.build(device)) for part, choice in asked]
    return Lead(lead, Followed(WeightedReward(checked, [part.weight for part, _ in asked])))


# ---- the command line


def _named(chosen: "Chosen", guidance: str) -> GuidancePart:
    """What the command line names, laid over the config's own where it is of the same type."""
    given, own = value(guidance), chosen.config.evaluation.guidance
    named = {"type": given} if isinstance(given, str) else given
    if own is not None and isinstance(named, Mapping) and named.get("type") == own.type:
        named = {**own.model_dump(), **named}
    part, faults = validated(GuidancePart, named)
    if part is None:
        raise UserError("\n".join(f"--guidance: {key}: {message}" for key, message in faults))
    return part


def _instead(name: str, key: str, message: str) -> str:
    """How an option that is missing is given: it is no option of the command line itself."""
    option = key.removeprefix("--guidance.")
    if "." in option or not message.startswith("missing"):
        return ""
    return f". Write --guidance '{{type: {name}, {option}: ...}}', or give it to `evaluation.guidance` of the config"


def _weighed(chosen: "Chosen", part: GuidancePart, weights: Mapping[str, float]) -> GuidancePart:
    """With the rewards that the command line weighs, or, where it weighs none, with the config's if it has none itself."""
    asks = chosen.plugins.catalogue.find("guidance", part.type).spec.reward
    if asks == "own":
        return part.model_copy(update={"weights": dict(weights)}) if weights else part
    if not weights and (part.rewards or asks == "none"):
        return part
    asked = weights or {one.label: one.weight for one in chosen.config.rewards}
    return part.model_copy(update={"rewards": [_leading(chosen, name, weight) for name, weight in asked.items()]})


def _weight(given: str) -> tuple[str, float]:
    name, _, text = given.partition("=")
    number = value(text) if text else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise UserError(f"--weight: '{given}' is not of the form REWARD=NUMBER, for example clip-score=1")
    return name, float(number)


def _leading(chosen: "Chosen", name: str, weight: float) -> LeadingPart:
    """The reward that the config calls so, those that train before those that evaluate, or else the one of that type."""
    config = chosen.config
    own = config.evaluation.guidance.rewards if config.evaluation.guidance else []
    known = {part.label: part for part in (*config.evaluation.rewards, *own, *config.rewards)}
    given = {**known[name].options, "type": known[name].type} if name in known else {"type": name}
    return LeadingPart.model_validate({**given, "name": name, "weight": weight})
