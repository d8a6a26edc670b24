"""What the adapters over diffusers pipelines share, whether they make pictures or videos."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_diffusion.models.lora import Lora


class PipelineModel:
    """A pipeline as a denoising model, but for how media become latents and latents media.

    pipe: the diffusers pipeline. family: how its denoiser is asked. dtype: of the frozen weights.
    adapter: LoRA; None trains the whole denoiser. lora: an earlier LoRA that becomes part of the base.
    """

    frame_rate: float | None = None
    """Frames a second of its videos; None where it makes pictures."""

    def __init__(self, pipe: Any, family: Any, adapter: Lora | None, lora: str | None, dtype: torch.dtype):
        from mmalign_diffusion.models.earlier import fuse
        from mmalign_diffusion.models.schedule import path_of
        from mmalign_diffusion.models.weights import weights_of

        self.pipe = pipe
        self.family = family
        self.path = path_of(pipe.scheduler, family)
        self.latent_shape: tuple[int, ...] = family.latent_shape
        self.network: nn.Module = family.network()
        fused = {} if lora is None else fuse(family.denoisers, family.denoiser, lora)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.weights = weights_of(self.network, family.denoisers, adapter, dtype, fused)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.network.parameters()).device

    @property
    def encoders(self) -> Mapping[str, Sequence[nn.Module]]:
        """The text encoders; the VAE without its decoder, and what else looks at pictures."""
        vae = self.pipe.vae
        looking = getattr(self.pipe, "image_encoder", None)
        media = [part for part in (vae.encoder, getattr(vae, "quant_conv", None), looking) if part is not None]
        named = [part for name, part in self.pipe.components.items() if name.startswith("text_encoder")]
        return {"texts": [part for part in named if part is not None], "media": media}

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What encodings depend on beside the encoders' weights."""
        return {
            "pipeline": type(self.pipe).__name__,
            "embedded_guidance": self.family.embedded_guidance,
            "vae": {name: value for name, value in self.pipe.vae.config.items() if not name.startswith("_")},
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
        condition: Condition = self.family.condition(texts)
        return condition

    @torch.no_grad()
    def unconditional(self, n: int) -> Condition | None:
        """The condition of `n` empty prompts, or None where guidance is baked in."""
        condition: Condition | None = self.family.unconditional(n)
        return condition

    def predict(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output like the latents `x`, float32, at the path's times `t` `[B]`."""
        # Some weights stay wider than the rest: the narrowest are those that latents meet first.
        dtype = min((weight.dtype for weight in self.network.parameters()), key=lambda one: one.itemsize)
        told = {name: value.to(dtype) for name, value in condition.items()}
        output: Tensor = self.family.predict(self.network, x.to(dtype), t, told)
        return output.float()

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
