"""CogVideoX: a transformer that predicts v on a noise schedule with zero signal at its end. Frames come before channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_video.models.families.family import VideoFamily


class CogVideoX(VideoFamily):
    """`CogVideoXPipeline`, 1.0 and 1.5. Latents are `[B, F, C, H, W]`.

    1.5 takes two latent frames together. Where the pipeline would add one and drop it later, here `frames` must fit.
    """

    native_frame_rate = 8.0

    @property
    def native_size(self) -> tuple[int, int, int]:
        """What the transformer was made for."""
        settings, side = self.config, self.strides[1]
        return settings.sample_height * side, settings.sample_width * side, settings.sample_frames

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """`(frames, channels, height, width)`."""
        frames, height, width = self.grid
        return frames, self.channels, height, width

    def scale(self, latents: Tensor) -> Tensor:
        """By one factor."""
        return latents.transpose(1, 2) * self.pipe.vae_scaling_factor_image

    def unscale(self, latents: Tensor) -> Tensor:
        """Back again."""
        return latents.transpose(1, 2) / self.pipe.vae_scaling_factor_image

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]`."""
        embeds, _ = self.pipe.encode_prompt(list(texts), do_classifier_free_guidance=False, device=self.device)
        return {"prompt_embeds": embeds}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """v."""
        rotary = None
        if self.config.use_rotary_positional_embeddings:
            place = self.pipe._prepare_rotary_positional_embeddings
            rotary = place(self.height, self.width, x.shape[1], x.device)
        told = {} if self.config.ofs_embed_dim is None else {"ofs": x.new_full((1,), 2.0)}
        output: Tensor = network(
            hidden_states=torch.cat([x, condition["begin"]], dim=2) if self.looks else x,
            encoder_hidden_states=condition["prompt_embeds"],
            timestep=self.timestep(t),
            image_rotary_emb=rotary,
            return_dict=False,
            **told,
        )[0]
        return output


class CogVideoXFromPicture(CogVideoX):
    """`CogVideoXImageToVideoPipeline`, 1.0 and 1.5.

    Where it differs: the picture's latents are the posterior's mean, not a draw.
    """

    looks = True

    @property
    def channels(self) -> int:
        """Of the latents: half of what the transformer takes."""
        return super().channels // 2

    def shown(self, pixels: Tensor) -> Condition:
        """begin `[B, F, C, H, W]`: the latent of the picture `[B, 3, H, W]`, then zeros."""
        first = self.pipe.vae.encode(pixels[:, :, None] * 2 - 1).latent_dist.mode().transpose(1, 2)
        factor = self.pipe.vae_scaling_factor_image
        first = first / factor if self.pipe.vae.config.invert_scale_latents else first * factor
        begin = first.new_zeros(len(first), *self.latent_shape)
        begin[:, :1] = first
        return {"begin": begin}
