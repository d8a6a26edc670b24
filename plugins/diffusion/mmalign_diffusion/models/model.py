"""The adapter: a diffusers text-to-image pipeline as a denoising model.

diffusers and peft are imported when a model is built, so that its options can be read without them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from mmalign.processes.encodings import Posterior
from mmalign.records import Media
from mmalign.samplers.guidance import Condition
from mmalign_diffusion import pictures
from mmalign_diffusion.models.lora import Lora

_LORA = Lora()
# Above this side in pixels the VAE decodes pictures one by one, or it would need more memory than the denoiser.
_ONE_BY_ONE = 256


class DiffusersModel:
    """A text-to-image pipeline: Stable Diffusion 1.x/2.x, XL, 3, or FLUX.

    path: folder, hub id, or `package:relative/path` in an installed package.
    variant: which weight files to take, for example "fp16".
    dtype: of the frozen weights. What trains is float32; so is the VAE.
    adapter: LoRA; None trains the whole denoiser and keeps a frozen copy as reference.
    lora: folder or hub id of an earlier LoRA. It becomes part of the base, so that the reference has it too, and what is saved
        holds both.
    resolution: side of the pictures in pixels; None is what the denoiser was made for.
    embedded_guidance: the guidance that FLUX dev is told; other models are guided when sampled.

    The noise schedule, prediction and time spacing come from the pipeline's scheduler, whichever sampler it names.
    """

    def __init__(
        self,
        path: str,
        *,
        variant: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        adapter: Lora | None = _LORA,
        lora: str | None = None,
        resolution: PositiveInt | None = None,
        embedded_guidance: float = 3.5,
    ):
        from mmalign_diffusion.models.earlier import fuse
        from mmalign_diffusion.models.loading import load
        from mmalign_diffusion.models.schedule import path_of
        from mmalign_diffusion.models.weights import weights_of

        frozen: torch.dtype = getattr(torch, dtype)
        self.pipe: Any
        self.pipe, family = load(path, frozen, torch.float32 if adapter is None else frozen, variant)
        self.family = family(self.pipe, resolution, embedded_guidance)
        self.path = path_of(self.pipe.scheduler, self.family)
        self.latent_shape = self.family.latent_shape
        self.network: nn.Module = getattr(self.pipe, family.denoiser)
        fused = {} if lora is None else fuse(self.network, family.denoiser, lora)
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.weights = weights_of(self.network, adapter, frozen, fused)
        if self.family.resolution > _ONE_BY_ONE:
            self.pipe.vae.enable_slicing()

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.network.parameters()).device

    @property
    def encoders(self) -> Mapping[str, Sequence[nn.Module]]:
        """The text encoders, and the VAE without its decoder."""
        vae = self.pipe.vae
        media = [part for part in (vae.encoder, getattr(vae, "quant_conv", None)) if part is not None]
        named = [part for name, part in self.pipe.components.items() if name.startswith("text_encoder")]
        return {"texts": [part for part in named if part is not None], "media": media}

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What encodings depend on beside the encoders' weights."""
        settings = self.pipe.vae.config
        return {
            "pipeline": type(self.pipe).__name__,
            "resolution": self.family.resolution,
            "embedded_guidance": self.family.embedded_guidance,
            "latents": [settings.scaling_factor, settings.shift_factor],
            "versions": {name: version(name) for name in ("diffusers", "transformers")},
        }

    def to(self, device: torch.device | str) -> Self:
        """Move everything, encoders and reference included."""
        self.pipe.to(device)
        self.weights.to(device)
        return self

    @torch.no_grad()
    def condition(self, texts: Sequence[str]) -> Condition:
        """Encoded prompts, batch first."""
        return self.family.condition(texts)

    @torch.no_grad()
    def unconditional(self, n: int) -> Condition | None:
        """The condition of `n` empty prompts, or None where guidance is baked in."""
        return self.family.unconditional(n)

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output `[B, C, H, W]`, float32, for latents `x` at the path's times `t` `[B]`."""
        dtype = next(self.network.parameters()).dtype
        told = {name: value.to(dtype) for name, value in condition.items()}
        return self.family.predict(self.network, x.to(dtype), t, told).float()

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """Pictures as `[B, 3, H, W]` in [0, 1] at the model's resolution: short side resized, centre kept."""
        read = (pictures.read(one).to(self.device) for one in media)
        return torch.cat([pictures.fit(pixels[None], self.family.resolution) for pixels in read])

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posterior:
        """The VAE's posterior of pictures `[B, 3, H, W]`, scaled as the denoiser knows latents."""
        shift, scale = self.pipe.vae.config.shift_factor or 0.0, self.pipe.vae.config.scaling_factor
        with torch.autocast(pixels.device.type, enabled=False):
            found = self.pipe.vae.encode(pixels.float() * 2 - 1).latent_dist
        return Posterior((found.mean - shift) * scale, found.std * scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` in [0, 1] of latents; differentiable where not clamped."""
        settings = self.pipe.vae.config
        latents = latents.float() / settings.scaling_factor + (settings.shift_factor or 0.0)
        with torch.autocast(latents.device.type, enabled=False):
            decoded: Tensor = self.pipe.vae.decode(latents, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it `predict` answers as the untouched model does."""
        network = self.network
        with self.weights.reference() as frozen:
            self.network = network if frozen is None else frozen
            try:
                yield
            finally:
                self.network = network

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights only."""
        return self.weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        self.weights.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """The result as diffusers writes it: a LoRA for `load_lora_weights`, or the whole pipeline."""
        self.weights.save(self.pipe, folder)
