"""Prompts that say how two rewards are to be weighed. Directional preference alignment, Wang et al. 2024, arXiv:2402.18571.

    v = (cos θ, sin θ),    R(x) = v_1 r_1(x) + v_2 r_2(x)

The prompt shows 100 v in whole numbers, and weighs the rewards of those names by v (`mmalign.rewards.weighted`). Trained on
the samples that are best by R (`collect: {keep: best}` and `sft`) a model then goes where it is sent.
"""

import math
import random
from dataclasses import replace

from mmalign.data.sources import Prompts, conditioned
from mmalign.data.texts import TextPrompts
from mmalign.errors import UserError
from mmalign.parts import Row, Source
from mmalign.records import WEIGHTS, Prompt

DIRECTION = "{prompt}\nWeigh the answer by {direction}."

Degrees = tuple[float, float]
Names = tuple[str, str]


class Directed:
    """Each prompt under a direction of its own, which depends on the seed and on the row alone. Options as for `directions`."""

    def __init__(
        self,
        prompts: Source,
        rewards: Names,
        degrees: Degrees = (-45.0, 45.0),
        template: str = DIRECTION,
        seed: int = 0,
    ):
        if rewards[0] == rewards[1]:
            raise UserError(f"rewards: a direction is between two of them, these are both '{rewards[0]}'")
        if degrees[0] > degrees[1]:
            raise UserError(f"degrees: from {degrees[0]:g} to {degrees[1]:g} is no range: put the smaller one first")
        self._prompts, self._names, self._degrees = prompts, rewards, degrees
        self._template, self._seed = template, seed

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Row:
        row = self._prompts[index]
        angle = math.radians(random.Random(f"{self._seed}/{index}").uniform(*self._degrees))
        return {**row, "prompt": self._directed(row["prompt"], angle)}

    def _directed(self, prompt: Prompt, angle: float) -> Prompt:
        weights = dict(zip(self._names, (math.cos(angle), math.sin(angle)), strict=True))
        shown = ", ".join(f"{name} {round(100 * weight)}" for name, weight in weights.items())
        asked = conditioned(prompt, self._template, {"direction": shown})
        return replace(asked, metadata={**prompt.metadata, WEIGHTS: weights})


def directions(
    path: str,
    rewards: Names,
    degrees: Degrees = (-45.0, 45.0),
    template: str = DIRECTION,
    column: str = "prompt",
    seed: int = 0,
) -> Directed:
    """Prompts from a file, each with a direction between two rewards.

    path, column: as for prompts. rewards: the names of the two. degrees: between which angles the direction lies, 0 being the
    first reward alone and 90 the second; twice the same is that one. seed: of the angles.
    template: what the model is asked; `{prompt}` is the prompt, `{direction}` says "helpful 77, brief -64".
    """
    return Directed(Prompts(path, column), rewards, degrees, template, seed)


def text_directions(
    path: str,
    rewards: Names,
    degrees: Degrees = (-45.0, 45.0),
    template: str = DIRECTION,
    split: str = "train",
    seed: int = 0,
) -> Directed:
    """Prompts with the pictures that they are about, each with a direction between two rewards.

    path, split: as for text-prompts. The others: as for directions.
    """
    return Directed(TextPrompts(path, split), rewards, degrees, template, seed)
