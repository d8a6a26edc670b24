"""The adapter: a diffusers text-to-image pipeline as a denoising model.

diffusers and peft are imported when a model is built, so that its options can be read without them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from mmalign.processes.encodings import Posterior
from mmalign.records import Media
from mmalign_diffusion import pictures
from mmalign_diffusion.models.lora import Lora
from mmalign_diffusion.models.pipeline import PipelineModel

_LORA = Lora()
# Above this side in pixels the VAE decodes pictures one by one, or it would need more memory than the denoiser.
_ONE_BY_ONE = 256


class DiffusersModel(PipelineModel):
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
        from mmalign_diffusion.models.families import FAMILIES
        from mmalign_diffusion.models.loading import load

        frozen: torch.dtype = getattr(torch, dtype)
        pipe, family = load(path, FAMILIES, frozen, torch.float32 if adapter is None else frozen, variant)
        super().__init__(pipe, family(pipe, resolution, embedded_guidance), adapter, lora, frozen)
        if self.family.resolution > _ONE_BY_ONE:
            self.pipe.vae.enable_slicing()

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What encodings depend on beside the encoders' weights."""
        return {**super().preprocessing, "resolution": self.family.resolution}

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
