"""Scoring: models that judge samples, read off at places of a network's features.

A plugin gives an adapter (`ScoringModel`) whose network makes features `[B, T, H]`; `ScoringPolicy` puts linear heads on them
and makes values of whole samples, or classes of their segments. The heads train, travel and are saved with the adapter, and
with them what values they gave while they trained, so that values of several heads can be put on one scale.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError, nearest
from mmalign.processes.policy import Adapter, evaluating
from mmalign.records import Media, Prompt, Samples

Ends = Sequence[Sequence[int]]
"""For each sample the ends of its segments, as counts of characters from the beginning of its text."""

_WEIGHTS, _HEADS = "heads.safetensors", "heads.json"
_DECAY = 0.99
"""Of the moments of values, a batch: what was given about a hundred batches ago is forgotten."""


@dataclass(frozen=True)
class Heads:
    """What is read off a sample.

    names: one head each, for example the dimensions of quality. classes: what a head tells apart in a segment of the
    sample, for example absent, faithful and hallucinated; without any a head gives the whole sample one value.
    annotators: whose preferences the model tells apart, where heads are prototypes of taste and each annotator is a mixture
    of them (`pal`, `vpl`).
    """

    names: tuple[str, ...] = ("score",)
    classes: tuple[str, ...] = ()
    annotators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind, given in {"names": self.names, "classes": self.classes}.items():
            if len(set(given)) < len(given) or any(not re.fullmatch(r"[\w-]+", name) for name in given):
                raise ValueError(f"{kind} must differ and be of letters, digits, - and _")
        if not self.names:
            raise ValueError("give at least one name")
        if len(set(self.annotators)) < len(self.annotators):
            raise ValueError("annotators must differ")
        if self.annotators and self.classes:
            raise ValueError("annotators prefer whole samples: leave out `classes`")
        if len(self.classes) == 1:
            raise ValueError("there is nothing to tell apart in one class; give several, or none for values")


@dataclass(frozen=True)
class Encoded:
    """Samples as the network sees them.

    inputs: what the network is given, named. places: `[B, 1 + S]`, where in T to read: the whole sample, then each of its
    segments; -1 where it has fewer, or was cut before one ends. `[B, 1 + S, K]` where every head reads at a place of its own.
    """

    inputs: Mapping[str, Tensor]
    places: Tensor


class ScoringModel(Adapter, Protocol):
    """What a plugin's adapter gives.

    network: called with the named inputs it returns features `[B, T, H]`; T is 1 where they are of the whole sample.
    heads: what to read off, an option of every scoring model. width: H.
    """

    heads: Heads
    width: int

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends) -> Encoded:
        """Prompts with samples, and where their segments end."""
        ...

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        ...

    def to(self, device: torch.device | str) -> Any:
        """Move everything."""
        ...

    def recompute_layers(self) -> None:
        """From now on the backward pass computes each layer again instead of keeping all of it until then."""
        ...


class NoisedScoringModel(ScoringModel, Protocol):
    """An adapter that learns to read samples through noise."""

    def noised(self, encoded: Encoded, rng: torch.Generator, copies: int) -> Encoded:
        """The samples under noise from `rng`; they are `copies` batches one after the other that share it."""
        ...


class ViewingScoringModel(ScoringModel, Protocol):
    """An adapter that looks at part of a sample, as at some frames of a video."""

    def viewed(self, samples: Samples) -> Sequence[Media]:
        """That of each."""
        ...


class HeadedNetwork(nn.Module):
    """A network and its heads: what trains. `[B, P, K, C]`: at P places K heads with C classes, or C = 1 for values.

    moments: `[3, K]`, decaying sums over the batches it trained on of 1, of the values' mean and of that of their squares.
    """

    moments: Tensor

    def __init__(self, backbone: nn.Module, width: int, heads: Heads):
        super().__init__()
        self.backbone = backbone
        self.shape = (len(heads.names), len(heads.classes) or 1)
        self.linear = nn.Linear(width, self.shape[0] * self.shape[1])
        nn.init.normal_(self.linear.weight, std=(width + 1) ** -0.5)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("moments", torch.zeros(3, self.shape[0]))
        if heads.annotators:
            self.tastes = nn.Parameter(torch.zeros(len(heads.annotators), 2, len(heads.names)))

    @property
    def own(self) -> dict[str, Tensor]:
        """The weights that are not the backbone's, by name."""
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith("backbone.")}

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, `[K]` each, of the values that were given last in training; 0 and 1 before any."""
        count, first, second = self.moments
        mean = first / count.clamp_min(1e-12)
        deviation = (second / count.clamp_min(1e-12) - mean**2).clamp_min(0).sqrt()
        return mean, torch.where(deviation > 0, deviation, 1)

    def forward(self, inputs: Mapping[str, Tensor], places: Tensor) -> Tensor:
        """Read every head at `places` `[B, P]`; what stands at -1 means nothing."""
        features: Tensor = self.backbone(**inputs)
        rows = torch.arange(len(places), device=places.device).reshape(-1, *[1] * (places.ndim - 1))
        # Half precision would round the small differences that a preference is.
        with torch.autocast(places.device.type, enabled=False):
            read: Tensor = self.linear(features[rows, places].to(self.linear.weight.dtype))
        read = read.view(*places.shape, *self.shape)
        if places.ndim == 3:  # each head's answer at its own place
            read = read.diagonal(dim1=2, dim2=3).transpose(-1, -2)
        if self.training and self.shape[1] == 1:
            self._remember(read.detach()[:, 0, :, 0])
        return read

    def _remember(self, values: Tensor) -> None:
        now = torch.stack([torch.ones_like(values[0]), values.mean(dim=0), values.square().mean(dim=0)])
        self.moments.mul_(_DECAY).add_(now, alpha=1 - _DECAY)


@dataclass(frozen=True)
class Sampling:
    """Nothing: a model that scores makes no samples."""


# Within the policy its own attribute hides the class of that name.
_Sampling = Sampling


class ScoringPolicy:
    """A reward model as objectives see it.

    gradient_checkpointing: the backward pass computes each layer again, to keep less until then.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"scoring"})
    Sampling = _Sampling

    def __init__(self, model: ScoringModel, sampling: _Sampling, gradient_checkpointing: bool = False):
        self.model = model
        self.sampling = sampling
        self.headed = HeadedNetwork(model.network, model.width, model.heads).to(model.device)
        self.network: nn.Module = self.headed
        if gradient_checkpointing:
            model.recompute_layers()

    @property
    def heads(self) -> Heads:
        """What is read off."""
        return self.model.heads

    def to(self, device: torch.device | str) -> Self:
        """Move everything."""
        self.model.to(device)
        self.headed.to(device)
        return self

    # ---- scores

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends | None = None) -> Encoded:
        """Prompts with samples as the network sees them. ends: where their segments end, if those are to be read."""
        return self.model.encode(prompts, media, [()] * len(media) if ends is None else ends)

    def scores(self, encoded: Encoded) -> Tensor:
        """`[B, K]`: the value of each whole sample by each head."""
        if self.heads.classes:
            raise UserError(
                "model.heads tell classes of segments, but values of samples are wanted: leave out `classes`"
            )
        read: Tensor = self.network(encoded.inputs, encoded.places[:, :1])
        return read[:, 0, :, 0]

    def noised(self, encoded: Encoded, rng: torch.Generator, copies: int = 1) -> Encoded:
        """Samples as a model that reads them through noise is trained; of all other models they stay as they are.

        copies: how many batches they are, one after the other, that share the noise: 2 for the two sides of pairs.
        """
        disturb: Callable[..., Encoded] | None = getattr(self.model, "noised", None)
        return encoded if disturb is None else disturb(encoded, rng, copies)

    def standardized(self, scores: Tensor) -> Tensor:
        """Values `[B, K]` less their mean in training, divided by their deviation there."""
        mean, deviation = self.headed.scale
        return (scores - mean) / deviation

    def logits(self, encoded: Encoded) -> Tensor:
        """`[N, K, C]`: what each head makes of every segment that can be read, those of the first sample first."""
        if not self.heads.classes:
            raise UserError("model.heads give values, but classes of segments are wanted: name them in `classes`")
        read: Tensor = self.network(encoded.inputs, encoded.places[:, 1:])
        return read[encoded.places[:, 1:] >= 0]

    def tastes(self, annotators: Sequence[str]) -> tuple[Tensor, Tensor]:
        """`[B, K]` each: what annotators think of the heads, as logits of a mixture, and the log-variance of that.

        Both are 0 before anything is learned, and for the annotator "", who is a stranger. Raises UserError for one whom
        `model.heads` does not name.
        """
        known = self.heads.annotators
        if unknown := [name for name in annotators if name and name not in known]:
            hint = nearest(unknown[0], known) or "; list everybody whose preferences it is to tell apart"
            raise UserError(f"model.heads.annotators does not name '{unknown[0]}'{hint}")
        stranger = self.headed.linear.weight.new_zeros(1, 2, len(self.heads.names))
        rows = torch.cat([self.headed.tastes, stranger]) if known else stranger
        found = rows[[known.index(name) if name else len(known) for name in annotators]]
        return found[:, 0], found[:, 1]

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Within it nothing trains: no gradient, no dropout."""
        with torch.no_grad(), evaluating(self.network):
            yield

    # ---- weights

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights, those of the heads as `heads.*`."""
        own = {f"heads.{_short(name)}": weight.detach() for name, weight in self.headed.own.items()}
        return {**self.model.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take trainable weights back."""
        own = {name.removeprefix("heads."): weight for name, weight in state.items() if name.startswith("heads.")}
        self._load_heads(own)
        self.model.load_state_dict({name: state[name] for name in state if not name.startswith("heads.")})

    def save(self, folder: Path) -> None:
        """The adapter's result in the ecosystem's own format, and beside it `heads.safetensors` and `heads.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder)
        save_file({_short(name): one.contiguous().cpu() for name, one in self.headed.own.items()}, folder / _WEIGHTS)
        (folder / _HEADS).write_text(json.dumps(asdict(self.heads), indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote. Raises UserError where nothing, or another model's, was saved."""
        if not (folder / _WEIGHTS).is_file():
            raise UserError(
                f"{folder} holds no {_WEIGHTS}: name the `model` folder of a run that trained a reward model"
            )
        self._load_heads(load_file(folder / _WEIGHTS))
        self.model.load(folder)

    @torch.no_grad()
    def _load_heads(self, weights: Mapping[str, Tensor]) -> None:
        own = {_short(name): weight for name, weight in self.headed.own.items()}
        if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
            raise UserError("these heads belong to another model: keep `model` as it was when they were saved")
        for name, weight in own.items():
            weight.copy_(weights[name])


def _short(name: str) -> str:
    """What a weight is called in files."""
    return name.removeprefix("linear.")
