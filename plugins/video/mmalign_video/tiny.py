"""Small video pipelines of every family with random weights: classes and files as of the real ones, a thousandth of the size.

Nothing is downloaded. They load through the code that loads the real ones, so a recipe can be rehearsed with them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from mmalign_diffusion.tiny import WIDTH, t5_tokenizer

SIDE, FRAMES = 16, 5
"""Height and width of the videos in pixels, and how many frames they have."""


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny pipeline of a family (a key of `TINY`) in `folder` and return it. Same seed, same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        TINY[family]().save_pretrained(folder)
    return folder


def umt5_encoder(vocabulary: int) -> UMT5EncoderModel:
    """One layer."""
    config = UMT5Config(vocab_size=vocabulary, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=4)
    return UMT5EncoderModel(config).eval()


def wan_vae() -> AutoencoderKLWan:
    """A fourth of the sides, and of the frames but the first."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[-0.3, 0.2, 0.0, 0.1],
        latents_std=[0.5, 0.8, 1.1, 0.7],
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    ).eval()


def wan_transformer(**settings: Any) -> WanTransformer3DModel:
    """Two layers."""
    return WanTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": WIDTH,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            **settings,
        }
    ).eval()


def wan(experts: bool = False, expand_timesteps: bool = False) -> WanPipeline:
    """Wan 2.1; with `experts` 2.2's pair, with `expand_timesteps` 2.2's model of 5B."""
    tokenizer = t5_tokenizer()
    return WanPipeline(
        tokenizer,
        umt5_encoder(len(tokenizer)),
        wan_vae(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        wan_transformer(),
        wan_transformer() if experts else None,
        boundary_ratio=0.8 if experts else None,
        expand_timesteps=expand_timesteps,
    )


TINY: Mapping[str, Callable[[], Any]] = {
    "wan": wan,
    "wan-experts": lambda: wan(experts=True),
    "wan-5b": lambda: wan(expand_timesteps=True),
}
"""Families of tiny pipelines by name. Load them with `height=16, width=16, frames=5`."""
