"""The nouns that travel between parts: what is asked, what was made, how it was scored.

Shapes: `B` samples, `U` units (tokens, or denoising steps), `[3, H, W]` pictures and `[F, 3, H, W]` videos of `F` frames with
values in [0, 1].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmalign.errors import UserError

Media = str | Path | bytes | Tensor
"""One picture, video or answer as data sets hold it: a file, its bytes, or the thing itself.

The thing itself is pixels in [0, 1], of a picture `[3, H, W]` or a video `[F, 3, H, W]`, or a text where the model answers in
words.
"""


@dataclass(frozen=True)
class Masked:
    """A picture or video of which some places count more than others, for likelihoods of denoising models.

    mask: a picture of the same size, or `[H, W]`, in [0, 1]: 1 where it counts, 0 where it does not. It is cut and resized
        as the medium is. name: what messages call it.
    """

    media: Media
    mask: Media
    name: str = "the mask"


@dataclass(frozen=True)
class Turn:
    """What was said before: `role` is "system", "user" or "assistant"."""

    role: str
    text: str


Units = Literal["sum", "mean"]
"""How the log-probabilities of a sample's units become one: summed, or averaged, so that length does not count."""


@dataclass(frozen=True)
class Prompt:
    """What the model is asked for.

    text: the last thing that the user says. metadata: travels untouched from the data set to the rewards.
    images: what the user shows, before the first thing said. history: the turns before `text`.
    videos: what the user shows after the images, each as its frames in order.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    images: Sequence[Media] = ()
    history: Sequence[Turn] = ()
    videos: Sequence[Sequence[Media]] = ()

    @property
    def turns(self) -> Sequence[Turn]:
        """All that was said, `text` last."""
        return [*self.history, Turn("user", self.text)]


@dataclass(frozen=True)
class Samples:
    """What a model made of prompts, one sample a prompt, in the same order.

    prompts: `B` prompts.
    made: pixels in [0, 1], which carry gradient when they come from a sampler with gradient: pictures `[B, 3, H, W]` or videos
        `[B, F, 3, H, W]`; or `B` texts. Read it as `media` or as `responses`, whichever you are for.
    seeds: the seed behind each sample, or empty where there is none.
    frame_rate: frames of a video a second; None where they are no videos, or nobody knows.
    """

    prompts: Sequence[Prompt]
    made: Tensor | Sequence[str]
    seeds: Sequence[int] = ()
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.made):
            raise ValueError(f"{len(self.prompts)} prompts but {len(self.made)} samples")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def media(self) -> Tensor:
        """The pixels, of pictures or videos. Raises UserError where the model answers in words."""
        if not isinstance(self.made, Tensor):
            raise UserError("this reward looks at pictures, but the model answers in words: choose a reward for texts")
        return self.made

    @property
    def responses(self) -> Sequence[str]:
        """The texts. Raises UserError where the model makes pixels."""
        if isinstance(self.made, Tensor):
            raise UserError("this reward reads texts, but the model makes pictures: choose a reward for pictures")
        return self.made

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self.prompts]

    @property
    def finite(self) -> Tensor:
        """`[B]`: whose pixels are all numbers; a text has none that are not."""
        if not isinstance(self.made, Tensor):
            return torch.ones(len(self), dtype=torch.bool)
        return self.made.isfinite().flatten(1).all(dim=1)

    def __getitem__(self, index: slice) -> "Samples":
        return replace(self, prompts=self.prompts[index], made=self.made[index], seeds=self.seeds[index])

    def picked(self, indices: Sequence[int]) -> "Samples":
        """Those at `indices`, in that order."""
        made = self.made[list(indices)] if isinstance(self.made, Tensor) else [self.made[i] for i in indices]
        seeds = [self.seeds[i] for i in indices] if self.seeds else ()
        return Samples([self.prompts[i] for i in indices], made, seeds, self.frame_rate)

    @classmethod
    def joined(cls, batches: "Sequence[Samples]") -> "Samples":
        """Several batches as one, in their order."""
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        made, seeds = batched([one for b in batches for one in b.made]), [s for b in batches for s in b.seeds]
        return cls(prompts, made, seeds, next((b.frame_rate for b in batches), None))


def batched(made: Sequence[Tensor] | Sequence[str]) -> Tensor | Sequence[str]:
    """Single samples as `Samples.made` holds them: pixels of one size stacked, texts as they are."""
    pixels = [one for one in made if isinstance(one, Tensor)]
    texts = [one for one in made if isinstance(one, str)]
    return torch.stack(pixels) if pixels else texts


Spans = Sequence[Sequence[tuple[int, float]]]
"""By sample, where segments of its text end, as counts of characters from its beginning, and what each of them earned."""


@dataclass(frozen=True)
class Scores:
    """What a reward says of `B` samples.

    values: `[B]`, higher is better; not finite where a sample could not be scored.
    dimensions: named `[B]` tensors beside it, for example one a component. They are logged, never optimised.
    units: `[B, U]`, what of `values` was earned at which unit of a rollout; the rest of it belongs to the whole. None
        where the reward does not tell.
    spans: the same by segments of texts: what of `values` each of them earned. The policy knows at which unit one ends.
    places: `[B, H, W]` in [0, 1]: 1 where a picture, or a video in all its frames, shows what it should, so that it may stay when
        the rest is drawn again (`mmalign.samplers.repair`). None where the reward does not tell.
    """

    values: Tensor
    dimensions: Mapping[str, Tensor] = field(default_factory=dict)
    units: Tensor | None = None
    spans: Spans | None = None
    places: Tensor | None = None


WEIGHTS = "weights"
"""The key of a prompt's metadata under which it weighs rewards itself, by their name."""

EVERY = "*"
"""The dimension of a label that names none: it holds for all."""


@dataclass(frozen=True)
class Segment:
    """A piece of a text, `text[start:end]`, and of which class it is in each kind of fact that it was looked at for.

    labels: by kind, for example {"existence": "faithful", "relation": "hallucinated"}.
    """

    start: int
    end: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What was said to a prompt, and the pieces of it that feedback is given on, `text[start:end]` for each of `spans`."""

    prompt: Prompt
    text: str
    spans: Sequence[tuple[int, int]]


FactKind = Literal["existence", "attribute", "relation"]
"""What a fact is about: that a thing is there, what it is like, or how it stands to another."""


@dataclass(frozen=True)
class Fact:
    """One thing that a piece of an answer claims, as a sentence that can be understood alone: "The circle is red."."""

    kind: FactKind
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a fact.

    said: "yes" or "no"; "moot" where it is neither, such as the colour of a thing that is not there; "none" where the judge
        gave no verdict, which never counts as yes or no.
    p_yes: how likely "yes" was, where the judge tells.
    """

    said: Literal["yes", "no", "moot", "none"]
    p_yes: float | None = None


@dataclass(frozen=True)
class Draw:
    """The shared randomness of a surrogate likelihood: times `t` `[B]` (in the path's units) and `noise` like the latents.

    Both are empty where a likelihood is exact, so that there is nothing to share.
    """

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
class Compared:
    """What a policy (p) and its reference (r) make of the same units, `[B, U]` each.

    log_probs: log p, with gradient. reference_log_probs: log r, without. divergence: KL(r ‖ p) over everything that a unit
    could have been, with gradient.
    """

    log_probs: LogProbs
    reference_log_probs: LogProbs
    divergence: LogProbs


@dataclass(frozen=True)
class Rollout:
    """Samples and how likely the policy that drew them found each of their units; `policy.replay` asks it again.

    log_probs: `[B, U]`, without gradient.
    units: by sample what its process replays, for example token ids: tensors, numbers and texts in lists, tuples or dicts,
        which a checkpoint can hold.
    """

    samples: Samples
    log_probs: LogProbs
    units: Sequence[Any]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: slice) -> "Rollout":
        log_probs = LogProbs(self.log_probs.values[index], self.log_probs.mask[index])
        return Rollout(self.samples[index], log_probs, self.units[index])

    def picked(self, indices: Sequence[int]) -> "Rollout":
        """Those at `indices`, in that order."""
        rows = list(indices)
        log_probs = LogProbs(self.log_probs.values[rows], self.log_probs.mask[rows])
        return Rollout(self.samples.picked(rows), log_probs, [self.units[i] for i in rows])

    def pieces(self, size: int) -> Iterator["Rollout"]:
        """`size` samples at a time."""
        return (self[i : i + size] for i in range(0, len(self), size))

    @classmethod
    def joined(cls, batches: "Sequence[Rollout]") -> "Rollout":
        """Several as one, in their order, as wide as the widest; what is added does not count."""
        width = max(batch.log_probs.values.shape[1] for batch in batches)

        def wide(rows: Tensor) -> Tensor:
            return pad(rows, (0, width - rows.shape[1]))

        log_probs = LogProbs(
            torch.cat([wide(batch.log_probs.values) for batch in batches]),
            torch.cat([wide(batch.log_probs.mask) for batch in batches]),
        )
        return cls(Samples.joined([b.samples for b in batches]), log_probs, [u for b in batches for u in b.units])


@dataclass(frozen=True)
class Experience:
    """A buffer of rollouts and what their reward says, before anything is learned from it.

    rollout: `N` samples; those of one prompt, `group` many, stand beside each other. scores: of the `N`.
    at_once: how many samples the model is to see at a time.
    past: by sample what its prompt scored until now, these included, oldest first; empty if the run remembers none.
    """

    rollout: Rollout
    scores: Scores
    group: int
    at_once: int
    past: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Loss:
    """What an objective returns: `values` `[B]` (averaging belongs to the trainer) and scalar metrics, detached."""

    values: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
