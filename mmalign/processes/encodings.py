"""The frozen half of a denoising model: what its encoders make of texts, pictures and masks.

Everything is encoded by itself and in the encoders' own precision. So what comes out depends neither on the batch around it
nor on the run's precision, and is bit for bit the same whether it was just computed or kept (`Encodings.keep`). A picture
has no one encoding but a posterior, of which each visit draws anew: its moments are kept, never a draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mmalign.data.cache import Store, Tensors, content, digest, fingerprint
from mmalign.errors import UserError
from mmalign.records import Masked, Media, Prompt
from mmalign.samplers.guidance import Condition

Made = TypeVar("Made")


@dataclass(frozen=True)
class Posterior:
    """What an encoder knows of latents: their `mean` and deviation `std`, both `[B, ...]`; no std where it is sure."""

    mean: Tensor
    std: Tensor | None = None

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw for each, `[B, ...]`. The generator is on the CPU and draws for the whole batch at once."""
        if self.std is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)


class EncodingModel(Protocol):
    """What a plugin's adapter gives of its frozen half.

    One whose network is shown a picture beside the words has `looks`, which is true, and `shown(pictures) -> Condition`: what
    the network is told of these pictures, under other names than those of `condition`.
    """

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample's latents, whose last two sizes are height and width."""
        ...

    @property
    def encoders(self) -> Mapping[str, Sequence[nn.Module]]:
        """The modules that nothing but "texts" (`condition`, `unconditional`) and nothing but "media" (`encode`) asks."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """As plain data all that encodings depend on beside these modules' weights, for example the resolution."""
        ...

    def condition(self, texts: Sequence[str]) -> Condition:
        """What the network is told for these prompts: named tensors, batch first, as long for one text as for any other."""
        ...

    def unconditional(self, n: int) -> Condition | None:
        """The same for `n` empty prompts, for guidance; None when guidance is baked into the network."""
        ...

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """Pictures `[B, 3, H, W]` or videos `[B, F, 3, H, W]` in [0, 1] at the model's size.

        Raises UserError that names an unreadable one.
        """
        ...

    def encode(self, pixels: Tensor) -> Posterior:
        """What the encoder knows of their latents, scaled as the network knows them."""
        ...


class Encodings:
    """What the encoders of a model make of things; each by itself, and once where a store keeps it."""

    def __init__(self, model: EncodingModel):
        self._model = model
        self._store: Store | None = None
        self._contents: dict[str | Path, str] = {}
        self._away: set[str] = set()
        self._empty: list[Condition | None] = []

    def condition(self, texts: Sequence[str]) -> Condition:
        """What the network is told for these prompts, batch first. Each distinct text is looked up once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        index = torch.tensor([rows[text] for text in texts], device=self._model.device)
        found = [self._text(text) for text in rows]
        return {name: torch.cat([one[name] for one in found])[index] for name in found[0]}

    def unconditional(self, n: int) -> Condition | None:
        """The same for `n` empty prompts; None where guidance is baked in. The encoder is asked only once."""
        if not self._empty:
            self._empty.append(self._encoded("texts", lambda: self._model.unconditional(1)))
        (empty,) = self._empty
        return empty and {name: value.expand(n, *value.shape[1:]) for name, value in empty.items()}

    def shown(self, prompts: Sequence[Prompt]) -> Condition:
        """What the network is told of the picture that each prompt shows, batch first; nothing where it looks at none.

        Raises UserError for a prompt that shows no picture, or several.
        """
        if not self._looks:
            return {}
        if wrong := next((prompt for prompt in prompts if len(prompt.images) != 1), None):
            raise UserError(
                f"the prompt '{wrong.text}' shows {len(wrong.images)} pictures, but this model begins with one: see to it that "
                "`images` of each prompt holds one"
            )
        found = [self._picture(prompt.images[0]) for prompt in prompts]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def posterior(self, media: Sequence[Media]) -> Posterior:
        """What the encoder knows of the latents of media."""
        found = [self._medium(medium) for medium in media]
        moments = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        return Posterior(moments["mean"], moments.get("std"))

    def weights(self, media: Sequence[Media | Masked]) -> Tensor | None:
        """How much each place of the latents counts, `[B, height, width]` in [0, 1]; None where no medium has a mask.

        Raises UserError for a mask under which nothing is left.
        """
        if not any(isinstance(medium, Masked) for medium in media):
            return None
        height, width = self._model.latent_shape[-2:]
        whole = torch.ones(1, height, width, device=self._model.device)
        return torch.cat([self._weights(one) if isinstance(one, Masked) else whole for one in media])

    # ---- kept

    def keep(self, store: Callable[[str], Store]) -> Store:
        """From now on look into a store first, and put there what was not in it.

        store: opens the one of all models whose encoders and preprocessing have this fingerprint.
        """
        modules = [module for some in self._model.encoders.values() for module in some]
        # Other versions and kinds of device round otherwise.
        where = {"torch": torch.__version__, "device": self._model.device.type, "model": type(self._model).__qualname__}
        settings = {**where, "preprocessing": dict(self._model.preprocessing)}
        self._store = store(fingerprint(modules, settings))
        return self._store

    def fill(self, texts: Sequence[str], media: Sequence[Media], pictures: Sequence[Media] = ()) -> None:
        """See to it that the encodings of these are kept. pictures: that prompts show."""
        for text in texts:
            self._text(text)
        for medium in media:
            self._medium(medium)
        for picture in pictures if self._looks else ():
            self._picture(picture)

    def release(self) -> None:
        """Take the encoders off the device. What is not in the store brings those back that it needs, for good."""
        self.unconditional(1)
        for kind, modules in self._model.encoders.items():
            self._away.add(kind)
            for module in modules:
                module.to("cpu")

    # ---- inside

    @property
    def _looks(self) -> bool:
        """Whether the network is shown pictures."""
        return bool(getattr(self._model, "looks", False))

    def _picture(self, picture: Media) -> Tensors:
        shown: Callable[[Sequence[Media]], Tensors] = getattr(self._model, "shown")  # noqa: B009
        return self._known(self._key("picture", picture), "media", lambda: shown([picture]))

    def _text(self, text: str) -> Tensors:
        return self._known(digest("text", text), "texts", lambda: self._model.condition([text]))

    def _medium(self, medium: Media) -> Tensors:
        def moments() -> Tensors:
            found = self._model.encode(self._model.pixels([medium]))
            return {"mean": found.mean} if found.std is None else {"mean": found.mean, "std": found.std}

        return self._known(self._key("medium", medium), "media", moments)

    def _key(self, kind: str, medium: Media) -> str | None:
        """Under what a medium is kept, as which kind of thing; None where it is not."""
        return None if self._store is None or isinstance(medium, Tensor) else digest(kind, self._content(medium))

    def _weights(self, masked: Masked) -> Tensor:
        """The mask cut as the picture is, and averaged over what each place of the latents sees, `[1, height, width]`."""
        mask = masked.mask
        if isinstance(mask, Tensor) and mask.ndim == 2:
            mask = mask.expand(3, -1, -1)
        pixels = self._model.pixels([mask]).to(self._model.device)
        grey = pixels.reshape(1, -1, *pixels.shape[-2:]).mean(dim=1)
        height, width = self._model.latent_shape[-2:]
        pooled = adaptive_avg_pool2d(grey, (height, width))
        if not pooled.sum() > 0:
            raise UserError(
                f"{masked.name} is 0 everywhere in what the model sees of the picture: remove it or its row"
            )
        return pooled

    def _known(self, key: str | None, kind: str, make: Callable[[], Tensors]) -> Tensors:
        """What is kept under a key, or made now; nothing without a key is kept."""
        if self._store is None or key is None:
            return self._encoded(kind, make)
        if (found := self._store.get(key)) is not None:
            return {name: value.to(self._model.device) for name, value in found.items()}
        made = self._encoded(kind, make)
        self._store.put(key, made)
        return made

    @torch.no_grad()
    def _encoded(self, kind: str, make: Callable[[], Made]) -> Made:
        """What an encoder makes, on the device and in its own precision."""
        if kind in self._away:
            self._away.remove(kind)
            for module in self._model.encoders[kind]:
                module.to(self._model.device)
        with torch.autocast(self._model.device.type, enabled=False):
            return make()

    def _content(self, medium: str | Path | bytes) -> str:
        """The digest of a medium; that of a file is remembered, so that each file is read for it only once."""
        if isinstance(medium, bytes):
            return content(medium)
        if medium not in self._contents:
            self._contents[medium] = content(medium)
        return self._contents[medium]
