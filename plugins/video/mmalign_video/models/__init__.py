"""Adapters: video pipelines of diffusers as denoising models."""

from mmalign_diffusion.models.lora import Lora
from mmalign_video.models.model import VideoModel

__all__ = ["Lora", "VideoModel"]
