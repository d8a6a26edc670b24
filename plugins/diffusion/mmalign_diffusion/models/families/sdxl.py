"""Stable Diffusion XL: two text encoders, a pooled text embedding, and the picture's size and crop as conditions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_diffusion.models.families.family import Family


class StableDiffusionXL(Family):
    """`StableDiffusionXLPipeline`."""

    denoiser = "unet"

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]`, text_embeds `[B, width]` (pooled) and time_ids `[B, 6]`.

        time_ids: original size, top left corner of the crop, target size: the picture as if never resized or cropped,
        the same for both pictures of a pair.
        """
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), device=self.device, do_classifier_free_guidance=False
        )
        side = self.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=embeds.device, dtype=torch.float32)
        return {"prompt_embeds": embeds, "text_embeds": pooled, "time_ids": sizes.repeat(len(texts), 1)}

    def unconditional(self, n: int) -> Condition | None:
        """Empty prompts; all zeros where the pipeline says so (`force_zeros_for_empty_prompt`). Sizes stay."""
        condition = super().unconditional(n)
        if condition is None or not self.pipe.config.force_zeros_for_empty_prompt:
            return condition
        return {name: value if name == "time_ids" else torch.zeros_like(value) for name, value in condition.items()}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's output."""
        output: Tensor = network(
            x,
            self.timestep(t),
            encoder_hidden_states=condition["prompt_embeds"],
            added_cond_kwargs={"text_embeds": condition["text_embeds"], "time_ids": condition["time_ids"]},
            return_dict=False,
        )[0]
        return output
