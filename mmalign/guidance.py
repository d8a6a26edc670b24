"""Sampling that rewards lead, as the command line asks for it: which guidance, which rewards, and how much of each."""

import math
from collections.abc import Iterator, Sequence

from mmalign import options
from mmalign.compose import Choice, Chosen, misled
from mmalign.config import Part
from mmalign.document import value
from mmalign.errors import UserError
from mmalign.faults import validated
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.samplers.guided import Sampler, led, plain


def sampler(chosen: Chosen, guidance: str | None, weights: Sequence[str]) -> Sampler:
    """How samples are drawn. Raises UserError where the model or a reward is not what the guidance needs.

    guidance: a name, or `{type: name, option: value}`; None is none. weights: `reward=number`, where a reward is one of the
    config's, or any other by its name in the catalogue; without any, the config's `rewards` with their own weights. One of
    weight 0 is left out, and when none is left samples are plain, bit by bit.
    """
    if guidance is None:
        if weights:
            raise UserError(
                "--weight: there is nothing to weigh without --guidance: name one of `mmalign list guidance`"
            )
        return plain
    choice = _choice(chosen, guidance)
    asked = {name: weight for name, weight in _weights(chosen, weights).items() if weight != 0}
    rewards = {name: _reward(chosen, name) for name in asked}
    if faults := list(misled(choice, list(rewards.values()), chosen.model, chosen.process)):
        raise UserError("\n".join(f"{key}: {message}" for key, message in faults))
    if not asked:
        return plain
    checked = [CheckedReward(name, reward.build()) for name, reward in rewards.items()]
    return led(choice.build(), WeightedReward(checked, list(asked.values())).measured)


def _choice(chosen: Chosen, guidance: str) -> Choice:
    given = value(guidance)
    part, faults = validated(Part, {"type": given} if isinstance(given, str) else given)
    if part is None:
        raise UserError("\n".join(f"--guidance: {key}: {message}" for key, message in faults))
    offer = chosen.plugins.catalogue.find("guidance", part.type)
    return Choice("--guidance", offer, options.complete(offer.spec, part.options))


def _weights(chosen: Chosen, given: Sequence[str]) -> dict[str, float]:
    """By reward. Raises UserError where there is none."""
    if not given and not chosen.config.rewards:
        raise UserError(
            "--guidance: the config has no `rewards` to be led by: name one, for example --weight clip-score=1"
        )
    own = {part.label: part.weight for part in chosen.config.rewards}
    return dict(_weight(one) for one in given) if given else own


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
