"""Stable Diffusion 1.x and 2.x: a UNet that attends to the states of one CLIP text encoder."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_diffusion.models.families.family import Family


class StableDiffusion(Family):
    """`StableDiffusionPipeline`."""

    denoiser = "unet"
    loading: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]`."""
        embeds, _ = self.pipe.encode_prompt(list(texts), self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's output."""
        states = condition["prompt_embeds"]
        output: Tensor = network(x, self.timestep(t), encoder_hidden_states=states, return_dict=False)[0]
        return output
