"""What the families of video pipelines share."""

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.processes.encodings import Posterior
from mmalign.records import Media
from mmalign_diffusion import pictures
from mmalign_diffusion.models.families import Family
from mmalign_video import videos


@dataclass(frozen=True)
class Size:
    """How large videos are; None is the pipeline's own.

    height, width: in pixels. frames: how many. frame_rate: how many a second.
    """

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    frame_rate: float | None = None


class VideoFamily(Family):
    """How one kind of video pipeline is conditioned, how its denoiser is called and how its VAE scales latents.

    Latents are laid out as the pipeline has them, `[B, C, F, H, W]` unless told otherwise.

    pipe: the diffusers pipeline. size: of the videos.
    embedded_guidance: the guidance that a guidance-distilled denoiser is told; others do not ask.
    """

    looks: ClassVar[bool] = False
    """Whether videos begin with a picture that is shown; then the family has `shown(pixels) -> Condition`."""
    native_frame_rate: ClassVar[float]
    """Frames a second of the videos that the denoiser was made for."""

    def __init__(self, pipe: Any, size: Size, embedded_guidance: float = 6.0):
        self.pipe = pipe
        self.embedded_guidance = embedded_guidance
        height, width, frames = self.native_size
        self.height, self.width = size.height or height, size.width or width
        self.frames = size.frames or frames
        self.frame_rate = size.frame_rate or self.native_frame_rate
        self._check()

    @property
    def native_size(self) -> tuple[int, int, int]:
        """Height, width and frames that the pipeline makes when it is not told."""
        told = inspect.signature(type(self.pipe).__call__).parameters
        height, width, frames = (int(told[name].default) for name in ("height", "width", "num_frames"))
        return height, width, frames

    @property
    def strides(self) -> tuple[int, int]:
        """How many frames, and pixels of a side, one latent stands for. The first frame always has one of its own."""
        return int(self.pipe.vae_scale_factor_temporal), int(self.pipe.vae_scale_factor_spatial)

    @property
    def patch(self) -> tuple[int, int]:
        """How many latents in time, and along a side, the denoiser takes together."""
        return int(self.config.patch_size_t or 1), int(self.config.patch_size)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.config.in_channels)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latents in time, down and across."""
        in_time, in_space = self.strides
        return (self.frames - 1) // in_time + 1, self.height // in_space, self.width // in_space

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """`(channels, frames, height, width)` of the latents."""
        return (self.channels, *self.grid)

    @property
    def tokens(self) -> int:
        """How many latents the VAE makes of a video: pipelines shift noise levels by these."""
        frames, height, width = self.grid
        return frames * height * width

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """Videos as `[B, F, 3, H, W]` in [0, 1] at this size and rate: cut off at the end, centre kept."""
        read = (videos.read(one, self.frame_rate, self.frames).to(self.device) for one in media)
        return torch.stack([pictures.fit(frames, (self.height, self.width)) for frames in read])

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Posterior:
        """The VAE's posterior of videos `[B, F, 3, H, W]`, scaled as the denoiser knows latents."""
        with torch.autocast(pixels.device.type, enabled=False):
            found = self.pipe.vae.encode(pixels.float().transpose(1, 2) * 2 - 1).latent_dist
        # Scaling is affine, so a deviation is scaled without what is added.
        return Posterior(self.scale(found.mean), self.scale(found.std) - self.scale(torch.zeros_like(found.std)))

    @abstractmethod
    def scale(self, latents: Tensor) -> Tensor:
        """The VAE's latents `[B, C, F, H, W]` as the denoiser knows them."""

    @abstractmethod
    def unscale(self, latents: Tensor) -> Tensor:
        """The denoiser's latents as the VAE knows them, `[B, C, F, H, W]`."""

    def decode(self, latents: Tensor) -> Tensor:
        """The VAE's answer `[B, 3, F, H, W]`, in [-1, 1], to latents that it knows."""
        decoded: Tensor = self.pipe.vae.decode(latents, return_dict=False)[0]
        return decoded

    def _check(self) -> None:
        in_time, in_space = self.strides
        together, side = self.patch
        for name in ("height", "width"):
            _check_multiple(name, getattr(self, name), in_space * side, 0)
        # The first latent in time stands for one frame, every other for `in_time`.
        _check_multiple("frames", self.frames, in_time * together, 1 - in_time * (1 - together))


def _check_multiple(name: str, value: int, step: int, offset: int) -> None:
    """`value` must be `offset` plus a multiple of `step`."""
    if (value - offset) % step:
        lower = max((value - offset) // step, 0 if offset > 0 else 1) * step + offset
        form = f"a multiple of {step}" if offset == 0 else f"{offset} more than a multiple of {step}"
        near = " or ".join(str(one) for one in dict.fromkeys((lower, lower + step)) if one > 0)
        raise UserError(f"model.{name}: {value} is not {form}, as this model needs: take {near}")


def per_channel(values: Any, like: Tensor) -> Tensor:
    """Numbers, one a channel, to be multiplied with `like` `[B, C, F, H, W]`."""
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)
