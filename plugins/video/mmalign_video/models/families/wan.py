"""Wan 2.1 and 2.2: a transformer on a flow, or a pair of them, that attends to the states of a UMT5 encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.samplers.guidance import Condition
from mmalign_video.models.families.experts import Experts
from mmalign_video.models.families.family import VideoFamily, per_channel

_LONGEST = 512
"""Tokens of a prompt that Wan was trained with; shorter prompts are filled up with zeros, which are seen."""


class Wan(VideoFamily):
    """`WanPipeline`, from text: 2.1, 2.2 with its two experts, and 2.2's model of 5B, whose times are told to each token.

    A tokenizer that says it reads fewer than 512 tokens (`model_max_length`) is taken at its word, which makes small models
    faster; give the pipeline that `max_sequence_length`, too.
    """

    time_sampling = "logit-normal"
    native_frame_rate = 16.0

    @property
    def denoisers(self) -> Mapping[str, Any]:
        """Both experts of 2.2."""
        found = super().denoisers
        return {**found, "transformer_2": self.pipe.transformer_2} if self._two else found

    def network(self) -> nn.Module:
        """The transformer, or the experts together."""
        if not self._two:
            return super().network()
        boundary = self.pipe.config.boundary_ratio * self.pipe.scheduler.config.num_train_timesteps
        return Experts(self.pipe.transformer, self.pipe.transformer_2, boundary)

    @property
    def patch(self) -> tuple[int, int]:
        """Of latents, in time and along a side."""
        together, side, _ = self.config.patch_size
        return together, side

    @property
    def channels(self) -> int:
        """The VAE's: a transformer that is shown a picture has more."""
        return int(self.pipe.vae.config.z_dim)

    def scale(self, latents: Tensor) -> Tensor:
        """Each channel by its own mean and standard deviation."""
        settings = self.pipe.vae.config
        return (latents - per_channel(settings.latents_mean, latents)) / per_channel(settings.latents_std, latents)

    def unscale(self, latents: Tensor) -> Tensor:
        """Back again."""
        settings = self.pipe.vae.config
        return latents * per_channel(settings.latents_std, latents) + per_channel(settings.latents_mean, latents)

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]`."""
        longest = min(_LONGEST, self.pipe.tokenizer.model_max_length)
        embeds, _ = self.pipe.encode_prompt(
            list(texts), do_classifier_free_guidance=False, max_sequence_length=longest, device=self.device
        )
        return {"prompt_embeds": embeds}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        output: Tensor = network(
            hidden_states=torch.cat([x, condition["begin"]], dim=1) if self.looks else x,
            timestep=self._told(self.timestep(t)),
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_hidden_states_image=condition.get("picture_embeds"),
            return_dict=False,
        )[0]
        return output

    def _told(self, timestep: Tensor) -> Tensor:
        """`[B]`, or the same for each token `[B, tokens]` where the model wants that."""
        if not self.pipe.config.expand_timesteps:
            return timestep
        (together, side), (frames, height, width) = self.patch, self.grid
        return timestep[:, None].expand(-1, frames // together * (height // side) * (width // side))

    @property
    def _two(self) -> bool:
        return self.pipe.config.boundary_ratio is not None


class WanFromPicture(Wan):
    """`WanImageToVideoPipeline`, 2.1 and 2.2 but for its model of 5B."""

    looks = True

    def shown(self, pixels: Tensor) -> Condition:
        """begin `[B, in_time + C, F, H, W]`: which frames are known, and the latents of a video that is grey after the picture;
        picture_embeds `[B, places, width]`: what CLIP makes of it, where the transformer asks. pixels: `[B, 3, H, W]`.
        """
        grey = pixels.new_full((len(pixels), 3, self.frames - 1, *pixels.shape[-2:]), 0.5)
        latents = self.scale(
            self.pipe.vae.encode(torch.cat([pixels[:, :, None], grey], dim=2) * 2 - 1).latent_dist.mode()
        )
        known = latents.new_zeros(len(latents), self.strides[0], *latents.shape[2:])
        known[:, :, 0] = 1
        found = {"begin": torch.cat([known, latents], dim=1)}
        if self.config.image_dim is None:
            return found
        levels = (pixels * 255).round().byte().cpu()
        return {**found, "picture_embeds": self.pipe.encode_image(list(levels), device=pixels.device)}

    def _check(self) -> None:
        super()._check()
        if self.pipe.config.expand_timesteps:
            raise UserError(
                "model.path: Wan 2.2 of 5B is taken from text alone: name another model, or load it as a WanPipeline"
            )
