"""The adapter: a diffusers video pipeline as a denoising model.

diffusers and peft are imported when a model is built, so that its options can be read without them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from mmalign.errors import UserError
from mmalign.processes.encodings import Posterior
from mmalign.records import Media
from mmalign.samplers.guidance import Condition
from mmalign_diffusion import pictures
from mmalign_diffusion.models.lora import Lora
from mmalign_diffusion.models.pipeline import PipelineModel

_LORA = Lora(rank=64, alpha=128)
# Of more pixels than this the VAE takes videos one by one, or it would need more memory than the denoiser.
_ONE_BY_ONE = 256 * 256


class VideoModel(PipelineModel):
    """A video pipeline: Wan 2.1 or 2.2, LTX-Video, CogVideoX or HunyuanVideo; Wan and CogVideoX also from a picture, the one in
    the prompt's `images`.

    Videos are `[B, F, 3, H, W]` in [0, 1].

    path: folder, hub id, or `package:relative/path` in an installed package.
    variant: which weight files to take, for example "fp16".
    dtype: of the frozen weights. What trains is float32; so is the VAE.
    adapter: LoRA; None trains the whole denoiser and keeps a frozen copy as reference.
    lora: folder or hub id of an earlier LoRA. It becomes part of the base, so that the reference has it too, and what is saved
        holds both.
    height, width: of the videos in pixels; None is the pipeline's own, as for what follows.
    frames: how many a video has. Longer videos of the data are cut off; shorter ones are told.
    frame_rate: how many a second. Videos of the data are brought to it by their timestamps.
    gradient_frames: where media carry gradient, so many latent frames from the beginning are decoded, as if the video ended
        there, to save memory; None is all.
    embedded_guidance: the guidance that HunyuanVideo is told; other models are guided when sampled.

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
        height: PositiveInt | None = None,
        width: PositiveInt | None = None,
        frames: PositiveInt | None = None,
        frame_rate: PositiveFloat | None = None,
        gradient_frames: PositiveInt | None = None,
        embedded_guidance: float = 6.0,
    ):
        from mmalign_diffusion.models.loading import load
        from mmalign_video.models.families import FAMILIES, Size

        frozen: torch.dtype = getattr(torch, dtype)
        pipe, family = load(path, FAMILIES, frozen, torch.float32 if adapter is None else frozen, variant)
        made = family(pipe, Size(height, width, frames, frame_rate), embedded_guidance)
        super().__init__(pipe, made, adapter, lora, frozen)
        self.frame_rate = made.frame_rate
        self.gradient_frames = gradient_frames
        if made.height * made.width > _ONE_BY_ONE:
            self.pipe.vae.enable_slicing()

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """Videos as `[B, F, 3, H, W]` in [0, 1] at the model's size and rate: cut off at the end, centre kept."""
        if self.gradient_frames and any(isinstance(one, Tensor) and len(one) < self.family.frames for one in media):
            raise UserError(
                "model.gradient_frames: of samples with gradient only the first frames are decoded, and objective.drift "
                "needs all of them: leave one of the two out"
            )
        pixels: Tensor = self.family.pixels(media)
        return pixels

    @property
    def looks(self) -> bool:
        """Whether videos begin with a picture that the prompt shows."""
        looks: bool = self.family.looks
        return looks

    @torch.no_grad()
    def shown(self, media: Sequence[Media]) -> Condition:
        """What the denoiser is told of the pictures that videos begin with."""
        size = (self.family.height, self.family.width)
        fitted = torch.cat([pictures.fit(pictures.read(one)[None].to(self.device), size) for one in media])
        with torch.autocast(fitted.device.type, enabled=False):
            found: Condition = self.family.shown(fitted.float())
        return found

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What encodings depend on beside the encoders' weights."""
        family = self.family
        size = [family.height, family.width, family.frames, family.frame_rate]
        return {**super().preprocessing, "size": size}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posterior:
        """The VAE's posterior of videos `[B, F, 3, H, W]`, scaled as the denoiser knows latents."""
        posterior: Posterior = self.family.encode(pixels)
        return posterior

    def decode(self, latents: Tensor) -> Tensor:
        """Videos `[B, F, 3, H, W]` in [0, 1] of latents; differentiable where not clamped."""
        known = self.family.unscale(latents.float())
        if torch.is_grad_enabled():
            known = known[:, :, : self.gradient_frames]
        with torch.autocast(latents.device.type, enabled=False):
            decoded: Tensor = self.family.decode(known)
        return (decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2)
