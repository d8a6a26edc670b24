"""Families of pipelines: how each is conditioned and how its denoiser is called."""

from mmalign_diffusion.models.families.family import Family
from mmalign_diffusion.models.families.flux import Flux
from mmalign_diffusion.models.families.sd import StableDiffusion
from mmalign_diffusion.models.families.sd3 import StableDiffusion3
from mmalign_diffusion.models.families.sdxl import StableDiffusionXL

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By the name of the pipeline's class, as `model_index.json` has it. A new family is one file and one line here."""

__all__ = ["FAMILIES", "Family"]
