"""The nouns that travel between parts: what is asked, what was made, how it was scored.

Shapes: `B` samples, `U` units (tokens, or denoising steps), `[C, H, W]` pictures with values in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

Media = str | Path | bytes | Tensor
"""One picture (or video) as data sets hold it: a file, its bytes, or pixels `[C, H, W]` in [0, 1]."""


Units = Literal["sum", "mean"]
"""How the log-probabilities of a sample's units become one: summed, or averaged, so that length does not count."""


@dataclass(frozen=True)
class Prompt:
    """What the model is asked for. `metadata` travels untouched from the data set to the rewards."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """What a model made of prompts, one sample a prompt, in the same order.

    prompts: `B` prompts.
    media: `[B, C, H, W]` in [0, 1]; carries gradient when it comes from a sampler with gradient.
    seeds: the seed behind each sample, or empty where there is none.
    """

    prompts: Sequence[Prompt]
    media: Tensor
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.media):
            raise ValueError(f"{len(self.prompts)} prompts but {len(self.media)} samples")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self.prompts]

    def __getitem__(self, index: slice) -> "Samples":
        return replace(self, prompts=self.prompts[index], media=self.media[index], seeds=self.seeds[index])


@dataclass(frozen=True)
class Scores:
    """What a reward says of `B` samples.

    values: `[B]`, higher is better.
    dimensions: named `[B]` tensors beside it, for example one a component. They are logged, never optimised.
    """

    values: Tensor
    dimensions: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """The shared randomness of a surrogate likelihood: times `t` `[B]` (in the path's units) and `noise` like the latents."""

    t: Tensor
    noise: Tensor


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities `values` `[B, U]` of each unit and their `mask` `[B, U]`: 1 where the unit counts, or its weight."""

    values: Tensor
    mask: Tensor

    def sum(self) -> Tensor:
        """`[B]`: summed over the units that count."""
        return (self.values * self.mask).sum(dim=1)

    def mean(self) -> Tensor:
        """`[B]`: averaged over the units that count; 0 where none does."""
        return self.sum() / self.mask.to(self.values.dtype).sum(dim=1).clamp(min=1e-8)

    def reduced(self, units: Units) -> Tensor:
        """`[B]`: the sum or the mean."""
        return self.sum() if units == "sum" else self.mean()

    def minus(self, other: "LogProbs") -> "LogProbs":
        """The log-ratio of each unit."""
        return replace(self, values=self.values - other.values)

    def weighted(self, weights: Tensor) -> "LogProbs":
        """The same with `weights` `[B, U]` of the units."""
        return replace(self, mask=self.mask * weights)


@dataclass(frozen=True)
class Loss:
    """What an objective returns: `values` `[B]` (averaging belongs to the trainer) and scalar metrics, detached."""

    values: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
