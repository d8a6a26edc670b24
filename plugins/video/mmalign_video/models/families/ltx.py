"""LTX-Video: a transformer on a flow that sees latents as a row of tokens; noise levels move up with the video's size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_video.models.families.family import VideoFamily, per_channel


class Ltx(VideoFamily):
    """`LTXPipeline`. Latents are `[B, C, F, H, W]` here; only the transformer sees them packed.

    A decoder that denoises once more is asked for time 0, as the pipeline does.
    """

    time_sampling = "logit-normal"
    native_frame_rate = 25.0

    @property
    def strides(self) -> tuple[int, int]:
        """The VAE's."""
        return int(self.pipe.vae_temporal_compression_ratio), int(self.pipe.vae_spatial_compression_ratio)

    @property
    def channels(self) -> int:
        """The VAE's: a token holds a patch of them."""
        return int(self.pipe.vae.config.latent_channels)

    def sigmas(self, scheduler: Any, steps: int) -> Tensor:
        """Equally spaced down to `1 / steps`, then shifted by the number of latents if the scheduler says so."""
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.shift(scheduler))
        sigmas: Tensor = scheduler.sigmas[:-1]
        return sigmas

    def scale(self, latents: Tensor) -> Tensor:
        """Each channel by its own mean and standard deviation."""
        vae = self.pipe.vae
        centred = latents - per_channel(vae.latents_mean, latents)
        return centred * vae.config.scaling_factor / per_channel(vae.latents_std, latents)

    def unscale(self, latents: Tensor) -> Tensor:
        """Back again."""
        vae = self.pipe.vae
        spread = latents * per_channel(vae.latents_std, latents) / vae.config.scaling_factor
        return spread + per_channel(vae.latents_mean, latents)

    def decode(self, latents: Tensor) -> Tensor:
        """At time 0, where the decoder wants one."""
        time = latents.new_zeros(len(latents)) if self.pipe.vae.config.timestep_conditioning else None
        decoded: Tensor = self.pipe.vae.decode(latents, time, return_dict=False)[0]
        return decoded

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]` and prompt_attention_mask `[B, tokens]`."""
        embeds, mask, _, _ = self.pipe.encode_prompt(list(texts), do_classifier_free_guidance=False, device=self.device)
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity, unpacked."""
        together, side = self.patch
        in_time, in_space = self.strides
        frames, height, width = self.grid
        output = network(
            hidden_states=self.pipe._pack_latents(x, side, together),
            encoder_hidden_states=condition["prompt_embeds"],
            timestep=self.timestep(t),
            encoder_attention_mask=condition["prompt_attention_mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(in_time / self.frame_rate, in_space, in_space),
            return_dict=False,
        )[0]
        velocity: Tensor = self.pipe._unpack_latents(output, frames, height, width, side, together)
        return velocity
