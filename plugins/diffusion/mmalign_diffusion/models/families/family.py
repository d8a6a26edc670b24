"""What the families of pipelines share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.samplers.guidance import Condition


class Family(ABC):
    """How one kind of pipeline is conditioned and how its denoiser is called.

    pipe: the diffusers pipeline.
    resolution: side of the pictures in pixels; None is what the denoiser was made for.
    embedded_guidance: the guidance that a guidance-distilled denoiser is told; others do not ask.
    """

    denoiser: ClassVar[str] = "transformer"
    """Name of the pipeline's denoiser."""
    loading: ClassVar[Mapping[str, Any]] = {}
    """Options of `from_pretrained`, for example parts to leave out."""
    time_sampling: ClassVar[Literal["uniform", "logit-normal"]] = "uniform"
    """How times are drawn in training, where time is continuous."""

    def __init__(self, pipe: Any, resolution: int | None = None, embedded_guidance: float = 3.5):
        self.pipe = pipe
        self.resolution = resolution or self.native_resolution
        self.embedded_guidance = embedded_guidance
        if self.resolution % self.multiple:
            raise UserError(f"resolution: {self.resolution} is not a multiple of {self.multiple}")

    @property
    def device(self) -> Any:
        """Where the denoiser is; encoders may be elsewhere while they rest."""
        return getattr(self.pipe, self.denoiser).device

    @property
    def config(self) -> Any:
        """The denoiser's configuration."""
        return getattr(self.pipe, self.denoiser).config

    @property
    def denoisers(self) -> Mapping[str, Any]:
        """Every denoiser, by the folder of its LoRA within that of the result; "" is that folder itself."""
        return {"": getattr(self.pipe, self.denoiser)}

    def network(self) -> nn.Module:
        """What trains, as `predict` is given it."""
        network: nn.Module = getattr(self.pipe, self.denoiser)
        return network

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the pictures that the denoiser was made for."""
        size = self.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * int(self.pipe.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """A resolution must be a multiple of this many pixels."""
        return int(self.pipe.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """`(channels, height, width)` of the latents."""
        side = self.resolution // int(self.pipe.vae_scale_factor)
        return int(self.config.in_channels), side, side

    @property
    def tokens(self) -> int:
        """How many places of a sample the denoiser sees."""
        return (self.resolution // self.multiple) ** 2

    def timestep(self, t: Tensor) -> Tensor:
        """A path's time `[B]` as the denoiser wants it: noise levels in [0, 1] are counted in training steps."""
        return t * self.pipe.scheduler.config.num_train_timesteps if t.is_floating_point() else t

    def sigmas(self, scheduler: Any, steps: int) -> Tensor:
        """`[steps]` descending noise levels of a flow, as the family's pipeline asks its scheduler for them."""
        scheduler.set_timesteps(steps, mu=self.shift(scheduler))
        sigmas: Tensor = scheduler.sigmas[:-1]
        return sigmas

    def shift(self, scheduler: Any) -> float | None:
        """How far larger pictures move the noise levels up, if the scheduler asks for it."""
        settings, tokens = scheduler.config, self.tokens
        if not settings.use_dynamic_shifting:
            return None
        least, most = settings.base_image_seq_len, settings.max_image_seq_len
        share = (tokens - least) / (most - least)
        return float(settings.base_shift + share * (settings.max_shift - settings.base_shift))

    @abstractmethod
    def condition(self, texts: Sequence[str]) -> Condition:
        """Encode prompts."""

    def unconditional(self, n: int) -> Condition | None:
        """The condition of `n` empty prompts, for guidance; None where guidance is baked into the denoiser."""
        return {name: value.expand(n, *value.shape[1:]) for name, value in self.condition([""]).items()}

    @abstractmethod
    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output `[B, C, H, W]` for latents `x` at the path's times `t` `[B]`."""
