"""WorldSimBench: what people would say of videos of embodied scenarios, one dimension at a time. Qin et al. 2024,
arXiv:2410.18072.

    OE   open-ended worlds     BC FC IA SA VC TJ EI    people say 1 or 2
    AD   driving               AE IA PV TJ KE SF       people say 1 to 5
    RM   robots that handle    AE BC FC IA PV TJ EI    people say 1 to 5

An evaluator says r of a video, its instruction and its scenario, in each dimension of that scenario. Where people have said s:

    score      mean r
    accuracy   # (r > 1.5 where s = 2, or r <= 1.5 where s = 1) / # s                          where they say 1 or 2
    plcc       (n Σ rs - Σ r Σ s) / √((n Σ r² - (Σ r)²) (n Σ s² - (Σ s)²))                     where they say 1 to 5

`OE/BC/score` and `OE/BC/accuracy` are of one dimension; `OE/score` and `OE/accuracy` are the means over those of a scenario.

Where it differs: any reward with these dimensions evaluates, not one video model alone; ratings of several people may come as
their mean. That robots can act on what a video shows, the benchmark's other half, is not measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch

from mmalign.errors import UserError, nearest
from mmalign.metrics import ratio
from mmalign.parts import Counts
from mmalign.records import Prompt, Samples
from mmalign.rewards.generated import reward_of


class Scenario(NamedTuple):
    """What is looked at in a scenario, and the least and the most that people say of it."""

    dimensions: tuple[str, ...]
    least: int
    most: int

    @property
    def binary(self) -> bool:
        """Whether people choose between two numbers."""
        return self.most - self.least == 1


SCENARIOS = {
    "OE": Scenario(("BC", "FC", "IA", "SA", "VC", "TJ", "EI"), 1, 2),
    "AD": Scenario(("AE", "IA", "PV", "TJ", "KE", "SF"), 1, 5),
    "RM": Scenario(("AE", "BC", "FC", "IA", "PV", "TJ", "EI"), 1, 5),
}
_SAME = 1e-9
"""Share of the squares below which numbers do not vary, but for rounding."""


class WorldSimBench:
    """What an evaluator says of videos by scenario and dimension, and how that agrees with what people said.

    Prompts are the instructions. They tell their `scenario`, OE, AD or RM, and may tell `ratings`, {dimension: number or null},
    of the very video: other columns of `text-prompts` and of samples.jsonl do.

    reward: the evaluator, written as one of the `rewards` of a config: its `dimensions` have the benchmark's names, as those of a
    `video-reward` whose heads are called so. For accuracies it speaks on the scale of people, so `standardize` is false.
    """

    def __init__(self, reward: Mapping[str, Any]):
        self.reward = reward_of(reward, "reward")

    def to(self, device: torch.device | str) -> Self:
        """Move the evaluator, if it can be moved."""
        self.reward.to(device)
        return self

    def evaluate(self, samples: Samples) -> list[dict[str, float]]:
        """By video, its scores in the dimensions of its scenario, NaN where there is none. Raises UserError for a prompt without
        scenario, and for an evaluator without one of the dimensions."""
        scenarios = [SCENARIOS[scenario_of(prompt)] for prompt in samples.prompts]
        given = {name: column.tolist() for name, column in self.reward(samples).dimensions.items()}
        wanted = dict.fromkeys(name for scenario in scenarios for name in scenario.dimensions)
        if missing := [name for name in wanted if name not in given]:
            told = f"reward '{self.reward.name}' says nothing of {', '.join(missing)}"
            raise UserError(f"{told}; its dimensions are {', '.join(given) or 'none'}")
        return [{name: given[name][i] for name in scenario.dimensions} for i, scenario in enumerate(scenarios)]

    def counts(self, samples: Samples) -> Sequence[Counts | None]:
        """Sums of scores and ratings by scenario and dimension; None of a video that has no score in one of them."""
        said = zip(samples.prompts, self.evaluate(samples), strict=True)
        return [
            _counted(prompt, scores) if all(map(math.isfinite, scores.values())) else None for prompt, scores in said
        ]

    def numbers(self, sums: Counts) -> Counts:
        """The formulas at the head of this file, of all that was counted."""
        return {name: value for scenario in SCENARIOS for name, value in _numbers(sums, scenario)}


def scenario_of(prompt: Prompt) -> str:
    """Which of `SCENARIOS` a prompt is of. Raises UserError where it tells none."""
    told = prompt.metadata.get("scenario")
    if told not in SCENARIOS:
        what = "has no scenario" if told is None else f"has the scenario {told!r}"
        raise UserError(f"prompt '{prompt.text[:60]}' {what}: add a column `scenario` with {', '.join(SCENARIOS)}")
    return str(told)


def ratings_of(prompt: Prompt, scenario: Scenario) -> dict[str, float]:
    """What people said of a video, by dimension; nothing where nobody did. Raises UserError for what is not on the scale."""
    found = {name: said for name, said in (prompt.metadata.get("ratings") or {}).items() if said is not None}
    for name, said in found.items():
        where = f"ratings of prompt '{prompt.text[:60]}'"
        if name not in scenario.dimensions:
            known = nearest(name, scenario.dimensions) or f"; it has {', '.join(scenario.dimensions)}"
            raise UserError(f"{where}: its scenario has no dimension '{name}'{known}")
        number = isinstance(said, int | float) and not isinstance(said, bool)
        if not number or not scenario.least <= said <= scenario.most or (scenario.binary and said % 1):
            scale = f"{scenario.least} {'or' if scenario.binary else 'to'} {scenario.most}"
            raise UserError(f"{where}: {said!r} is no rating of {name}, which is {scale}, or null")
    return found


def _counted(prompt: Prompt, scores: Mapping[str, float]) -> Counts:
    name = scenario_of(prompt)
    scenario = SCENARIOS[name]
    ratings = ratings_of(prompt, scenario)
    counted: dict[str, float] = {}
    for dimension, r in scores.items():
        found: dict[str, float] = {"videos": 1, "said": r}
        if (s := ratings.get(dimension)) is not None:
            middle = (scenario.least + scenario.most) / 2
            agree = {"right": (r > middle) == (s > middle)}
            moments = {"r": r, "s": s, "rr": r * r, "ss": s * s, "rs": r * s}
            found |= {"rated": 1, **(agree if scenario.binary else moments)}
        counted |= {f"{name} {dimension} {what}": value for what, value in found.items()}
    return counted


def _numbers(sums: Counts, name: str) -> Iterator[tuple[str, float]]:
    """The numbers of a scenario that has videos: of each dimension, and their means."""
    found: dict[str, list[float]] = {}
    for dimension in SCENARIOS[name].dimensions:
        own = {what.split()[-1]: total for what, total in sums.items() if what.startswith(f"{name} {dimension} ")}
        if own.get("videos", 0):
            numbers = {"score": own["said"] / own["videos"], **_agreement(own, SCENARIOS[name].binary)}
            yield from ((f"{name}/{dimension}/{number}", value) for number, value in numbers.items())
            for number, value in numbers.items():
                found.setdefault(number, []).append(value)
    yield from ((f"{name}/{number}", math.fsum(values) / len(values)) for number, values in found.items())


def _agreement(sums: Counts, binary: bool) -> Counts:
    if not sums.get("rated", 0):
        return {}
    return {"accuracy": ratio(sums["right"], sums["rated"])} if binary else {"plcc": _plcc(sums)}


def _plcc(sums: Counts) -> float:
    """Pearson's correlation; 0 where either does not vary."""
    n, r, s = sums["rated"], sums["r"], sums["s"]
    spread = [n * squares - total**2 for squares, total in ((sums["rr"], r), (sums["ss"], s))]
    if any(one <= _SAME * n * squares for one, squares in zip(spread, (sums["rr"], sums["ss"]), strict=True)):
        return 0.0
    return (n * sums["rs"] - r * s) / math.sqrt(spread[0] * spread[1])
