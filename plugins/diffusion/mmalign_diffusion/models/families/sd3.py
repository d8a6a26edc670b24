"""Stable Diffusion 3 and 3.5: a transformer on a flow; two CLIP encoders and, unless left out, T5."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmalign.samplers.guidance import Condition
from mmalign_diffusion.models.families.family import Family


class StableDiffusion3(Family):
    """`StableDiffusion3Pipeline`."""

    time_sampling = "logit-normal"

    @property
    def multiple(self) -> int:
        """Latents are cut into patches."""
        return int(self.pipe.vae_scale_factor * self.config.patch_size)

    def condition(self, texts: Sequence[str]) -> Condition:
        """prompt_embeds `[B, tokens, width]` and pooled_prompt_embeds `[B, width]`."""
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            list(texts), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def predict(self, network: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The transformer's velocity."""
        output: Tensor = network(
            hidden_states=x,
            timestep=self.timestep(t),
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return output
