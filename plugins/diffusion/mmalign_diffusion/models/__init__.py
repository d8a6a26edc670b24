"""Adapters: diffusers pipelines as denoising models."""

from mmalign_diffusion.models.lora import Lora
from mmalign_diffusion.models.model import DiffusersModel

__all__ = ["DiffusersModel", "Lora"]
