"""FLUX.1: a transformer on a flow that sees latents as tokens of 2 x 2 pixels and is told the guidance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_diffusion.models.families.family import Family


class Flux(Family):
    """`FluxPipeline`. Latents are `[B, C, H, W]` here; only the transformer sees them packed."""

    @property
    def native_resolution(self) -> int:
        """The transformer takes any size, so the pipeline's own default stands."""
        return int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Latents are packed two by two."""
        return int(self.pipe.vae_scale_factor) * 2

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Unpacked: a token holds four latent pixels."""
        channels, height, width = super().latent_shape
        return channels // 4, height, width

    def timestep(self, t: Tensor) -> Tensor:
        """The transformer takes the noise level in [0, 1] itself."""
        return t

    def sigmas(self, scheduler: Any, steps: int) -> Tensor:
        """Equally spaced down to `1 / steps`, then shifted by the number of tokens if the scheduler says so."""
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.shift(scheduler))
        sigmas: Tensor = scheduler.sigmas[:-1]
        return sigmas

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]` (T5), pooled_prompt_embeds `[B, width]` (CLIP) and guidance `[B]`."""
        embeds, pooled, _ = self.pipe.encode_prompt(list(texts), device=self.device)
        guidance = torch.full([len(texts)], self.embedded_guidance, device=embeds.device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "guidance": guidance}

    def unconditional(self, n: int) -> Condition | None:
        """None: FLUX is guidance-distilled."""
        return None

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The transformer's velocity, unpacked."""
        states = condition["prompt_embeds"]
        b, c, h, w = x.shape
        output = network(
            hidden_states=self.pipe._pack_latents(x, b, c, h, w),
            timestep=self.timestep(t),
            guidance=condition["guidance"] if self.config.guidance_embeds else None,
            pooled_projections=condition["pooled_prompt_embeds"],
            encoder_hidden_states=states,
            txt_ids=states.new_zeros(states.shape[1], 3),
            img_ids=self.pipe._prepare_latent_image_ids(b, h // 2, w // 2, x.device, x.dtype),
            return_dict=False,
        )[0]
        scale = int(self.pipe.vae_scale_factor)
        velocity: Tensor = self.pipe._unpack_latents(output, h * scale, w * scale, scale)
        return velocity
