"""Families of video pipelines: how each is conditioned, how its denoiser is called and how its VAE scales latents."""

from mmalign_video.models.families.cogvideox import CogVideoX, CogVideoXFromPicture
from mmalign_video.models.families.family import Size, VideoFamily
from mmalign_video.models.families.hunyuan import HunyuanVideo
from mmalign_video.models.families.ltx import Ltx
from mmalign_video.models.families.wan import Wan, WanFromPicture

FAMILIES: dict[str, type[VideoFamily]] = {
    "WanPipeline": Wan,
    "WanImageToVideoPipeline": WanFromPicture,
    "LTXPipeline": Ltx,
    "CogVideoXPipeline": CogVideoX,
    "CogVideoXImageToVideoPipeline": CogVideoXFromPicture,
    "HunyuanVideoPipeline": HunyuanVideo,
}
"""By the name of the pipeline's class, as `model_index.json` has it. A new family is one file and one line here."""

__all__ = ["FAMILIES", "Size", "VideoFamily"]
