"""HunyuanVideo: a transformer on a flow, told the guidance; states of a Llama and the pooled state of CLIP."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_video.models.families.family import VideoFamily


class HunyuanVideo(VideoFamily):
    """`HunyuanVideoPipeline`."""

    time_sampling = "logit-normal"
    native_frame_rate = 24.0

    def sigmas(self, scheduler: Any, steps: int) -> Tensor:
        """Equally spaced, then shifted as the scheduler says."""
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], mu=self.shift(scheduler))
        sigmas: Tensor = scheduler.sigmas[:-1]
        return sigmas

    def scale(self, latents: Tensor) -> Tensor:
        """By one factor."""
        scaled: Tensor = latents * self.pipe.vae.config.scaling_factor
        return scaled

    def unscale(self, latents: Tensor) -> Tensor:
        """Back again."""
        unscaled: Tensor = latents / self.pipe.vae.config.scaling_factor
        return unscaled

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]`, their mask, pooled_prompt_embeds `[B, width]` and guidance `[B]`."""
        embeds, pooled, mask = self.pipe.encode_prompt(list(texts), device=self.device)
        guidance = torch.full([len(texts)], self.embedded_guidance * 1000, device=embeds.device)
        return {
            "prompt_embeds": embeds,
            "prompt_attention_mask": mask,
            "pooled_prompt_embeds": pooled,
            "guidance": guidance,
        }

    def unconditional(self, n: int) -> Condition | None:
        """None: HunyuanVideo is guidance-distilled."""
        return None

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        output: Tensor = network(
            hidden_states=x,
            timestep=self.timestep(t),
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_attention_mask=condition["prompt_attention_mask"],
            pooled_projections=condition["pooled_prompt_embeds"],
            guidance=condition["guidance"],
            return_dict=False,
        )[0]
        return output
