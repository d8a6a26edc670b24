"""The adapter: the first blocks of a video denoiser as a model that scores, of clean latents and through noise.

    features(x_t, t) = mean over tokens of silu(W ((1 + scale_t) norm(h) + shift_t)),    h: what the last of the blocks says

Noisy rewards as in Flow-NRG, Liu et al. 2025 (Improving video generation with human feedback), arXiv:2501.13918: trained on
x_t = (1 - t) x_0 + t noise, t ~ U(0, 1), where both sides of a pair have the same t and noise, they tell what a video will be
worth while it is made, and their gradient leads the sampler (`mmalign_video.guidance.flow_nrg`).

diffusers is imported when a model is built, so that its options can be read without it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mmalign.data.cache import content
from mmalign.errors import UserError, nearest
from mmalign.processes.scoring import Encoded, Ends, Heads
from mmalign.records import Media, Prompt
from mmalign.samplers.guidance import Condition

DIMENSIONS = Heads(("VQ", "MQ", "TA"))
_FILE = "latent_video_reward.safetensors"
_FREQUENCIES = 64
_REMEMBERED = 2**28
"""Numbers of latents that a model remembers: 1 GiB."""


class TimeAware(nn.Module):
    """Tokens `[B, T, H]` at times `[B]` as one feature `[B, 1, H]`; see the top of this file."""

    def __init__(self, width: int):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, 2 * width))
        self.inner = nn.Linear(width, width)
        nn.init.zeros_(self.time[2].weight)
        nn.init.zeros_(self.time[2].bias)

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        """t: in [0, 1]."""
        from diffusers.models.embeddings import get_timestep_embedding

        told = get_timestep_embedding(1000 * t, _FREQUENCIES)
        scale, shift = self.time(told)[:, None].chunk(2, dim=-1)
        normed = layer_norm(tokens.float(), tokens.shape[-1:])
        return silu(self.inner(normed * (1 + scale) + shift)).mean(dim=1, keepdim=True)


class FirstBlocks(nn.Module):
    """A denoiser's first blocks: latents, times and conditions to features `[B, 1, H]`. What comes after them does not train.

    family: how the denoiser is asked. denoiser: its later blocks are taken from it. unasked: the condition of no prompt at all;
        with it features are `[B, 2, H]`, those of no prompt first.
    """

    def __init__(self, family: Any, denoiser: Any, blocks: int, unasked: Condition | None = None):
        super().__init__()
        self.unasked = unasked
        denoiser.blocks = denoiser.blocks[:blocks]
        self.family = family
        self.denoiser = denoiser.requires_grad_(True)
        for part in (denoiser.proj_out, denoiser.norm_out):
            part.requires_grad_(False)
        denoiser.scale_shift_table.requires_grad_(False)
        self.width = int(denoiser.config.num_attention_heads * denoiser.config.attention_head_dim)
        self.head = TimeAware(self.width)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """x: latents `[B, ...]`. t: their times `[B]`."""
        if self.unasked is None:
            return self._features(x, t, condition)
        unasked = {name: value.expand(len(x), *value.shape[1:]).to(x.device) for name, value in self.unasked.items()}
        return torch.cat([self._features(x, t, unasked), self._features(x, t, condition)], dim=1)

    def _features(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        said: list[Tensor] = []
        last = self.denoiser.blocks[-1]
        hook = last.register_forward_hook(lambda module, given, output: said.append(output))
        try:
            self.family.predict(self.denoiser, x, t, condition)
        finally:
            hook.remove()
        features: Tensor = self.head(said[0], t)
        return features


class LatentVideoReward:
    """Scores videos by the first blocks of the Wan denoiser that makes such videos, without decoding anything.

    path, dtype, height, width, frames, frame_rate: as of `diffusers-video`; dtype is the text encoder's. Its latents are read.
    heads: `names` of the dimensions of quality.
    blind: those of them that cannot know the prompt, as visual and motion quality do not in VideoReward: they are read as if
        nothing was asked for. With any, the blocks are gone through twice.
    blocks: how many of the denoiser's; None is half of them. All of their weights train.
    noised: learn to read through noise; without it the model learns clean latents alone, and then leads badly.
    """

    def __init__(
        self,
        path: str,
        *,
        heads: Heads = DIMENSIONS,
        blind: tuple[str, ...] = (),
        blocks: PositiveInt | None = None,
        noised: bool = True,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        height: PositiveInt | None = None,
        width: PositiveInt | None = None,
        frames: PositiveInt | None = None,
        frame_rate: PositiveFloat | None = None,
    ):
        from mmalign_diffusion.models.loading import load
        from mmalign_diffusion.models.schedule import path_of
        from mmalign_video.models.families import Size
        from mmalign_video.models.families.wan import Wan

        if heads.classes:
            raise UserError("heads.classes: they tell segments of a text apart, and a video has none")
        if unknown := [name for name in blind if name not in heads.names]:
            told = nearest(unknown[0], heads.names) or f"; they are {', '.join(heads.names)}"
            raise UserError(f"blind: no head is called '{unknown[0]}'{told}")
        self.pipe, _ = load(path, {"WanPipeline": Wan}, getattr(torch, dtype), torch.float32)
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.family = Wan(self.pipe, Size(height, width, frames, frame_rate))
        self.path = path_of(self.pipe.scheduler, self.family)
        depth = len(self.pipe.transformer.blocks)
        if blocks is not None and blocks > depth:
            raise UserError(f"blocks: the denoiser of {path} has {depth}, not {blocks}")
        unasked = self.condition([""]) if blind else None
        first = FirstBlocks(self.family, self.pipe.transformer, blocks or (depth + 1) // 2, unasked)
        self.heads, self.learns_noise, self.width = heads, noised, first.width
        # Where each head reads: at 0, unless blind heads do that.
        self._places = [int(name not in blind) for name in heads.names] if blind else None
        self.network: nn.Module = first
        self._first = first
        self._remembered: dict[str | Path, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.family.device
        return device

    def to(self, device: torch.device | str) -> Self:
        """Move everything."""
        self.pipe.to(device)
        self._first.to(device)
        self._remembered.clear()
        return self

    # ---- what is read

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends) -> Encoded:
        """Latents of videos as they are, without noise, and what was asked for. Raises UserError for what is no video."""
        if any(ends):
            raise UserError("this model rates whole videos, but the data hold segments of texts")
        latents = torch.cat([self._latents(one) for one in media])
        return self.noisy(latents, latents.new_zeros(len(latents)), self.condition([one.text for one in prompts]))

    def _latents(self, medium: Media) -> Tensor:
        """`[1, ...]`: of one video. The latest are remembered: the VAE is frozen and takes longer than the blocks."""
        key = medium if isinstance(medium, str | Path) else _digest(medium)
        if key not in self._remembered:
            if len(self._remembered) * prod(self.family.latent_shape) > _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[key] = self.family.encode(self.family.pixels([medium])).mean
        return self._remembered[key]

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> Condition:
        """What the blocks are told for these prompts, each distinct one encoded once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        found = self.family.condition(list(rows))
        index = torch.tensor([rows[text] for text in texts], device=self.device)
        return {name: value.float()[index] for name, value in found.items()}

    def noisy(self, x: Tensor, t: Tensor, condition: Condition) -> Encoded:
        """Latents `[B, ...]` on their way, at the path's times `t` `[B]`. Raises UserError for those of another model."""
        if tuple(x.shape[1:]) != tuple(self.family.latent_shape):
            raise UserError(
                f"latents are {list(x.shape[1:])}, but the latent reward reads {list(self.family.latent_shape)}: both must be "
                "of one pipeline and of one height, width and number of frames"
            )
        place = torch.tensor(self._places or 0, device=x.device)
        return Encoded({"x": x, "t": t, **condition}, place.expand(len(x), 1, *place.shape))

    def noised(self, encoded: Encoded, rng: torch.Generator, copies: int) -> Encoded:
        """Each sample at a time of its own, t ~ U(0, 1), under noise; `copies` batches one after the other share both."""
        if not self.learns_noise:
            return encoded
        x = encoded.inputs["x"]
        n = len(x) // copies
        t, noise = torch.rand(n, generator=rng), torch.randn((n, *x.shape[1:]), generator=rng)
        t, noise = (torch.cat([one] * copies).to(x) for one in (t, noise))
        return replace(encoded, inputs={**encoded.inputs, "x": self.path.add_noise(x, noise, t), "t": t})

    # ---- weights

    def recompute_layers(self) -> None:
        """The blocks keep their input alone until the backward pass."""
        self._first.denoiser.enable_gradient_checkpointing()

    def reference(self) -> AbstractContextManager[Any]:
        """Nothing is kept of the untouched model: no objective of scores asks for it."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """All weights that train: those of the blocks and of what reads them."""
        return {name: weight.detach() for name, weight in self._trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        own = self._trainable()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise UserError("these weights belong to another model: keep `model` as it was when they were saved")
        for name, weight in own.items():
            weight.copy_(state[name])

    def save(self, folder: Path) -> None:
        """`latent_video_reward.safetensors`, with diffusers' names below `denoiser`."""
        save_file({name: weight.contiguous().cpu() for name, weight in self.state_dict().items()}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        self.load_state_dict(load_file(folder / _FILE))

    def _trainable(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self._first.named_parameters() if weight.requires_grad}


def _digest(medium: bytes | Tensor) -> str:
    """What tells videos in memory apart."""
    if isinstance(medium, bytes):
        return content(medium)
    plain = medium.detach().cpu().contiguous()
    return content(plain.flatten().view(torch.uint8).numpy().tobytes()) + f" {plain.dtype} {tuple(plain.shape)}"
