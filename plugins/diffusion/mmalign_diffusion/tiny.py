"""Small pipelines of every family with random weights: classes and files as of the real ones, a thousandth of the size.

Nothing is downloaded; tokenizers are made here, too. They load through the code that loads the real ones, so a recipe
can be rehearsed with them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 32
SIDE = 8
"""Side of the latents; pictures are twice as wide."""


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny pipeline of a family (a key of `TINY`) in `folder` and return it. Same seed, same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        TINY[family]().save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """One token a letter."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def clip_encoder(tokenizer: CLIPTokenizer, projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Two layers; with the projection of the pooled state or without."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_tokenizer() -> T5Tokenizer:
    """One token a printable letter."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -2.0) for letter in letters)], extra_ids=0, model_max_length=512)


def t5_encoder(tokenizer: T5Tokenizer, width: int = WIDTH) -> T5EncoderModel:
    """One layer."""
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=4)
    return T5EncoderModel(config).eval()


def vae(**settings: Any) -> AutoencoderKL:
    """Halves the sides."""
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=2 * SIDE,
        **settings,
    ).eval()


def unet(**settings: Any) -> UNet2DConditionModel:
    """Two levels, attention to text on the lower."""
    return UNet2DConditionModel(
        **{
            "sample_size": SIDE,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": 2,
            "cross_attention_dim": WIDTH,
            "norm_num_groups": 8,
            **settings,
        }
    ).eval()


def ddim(prediction: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def stable_diffusion(prediction: str = "epsilon") -> StableDiffusionPipeline:
    """SD 1.x (epsilon) or 2.x (v)."""
    tokenizer = clip_tokenizer()
    encoder = clip_encoder(tokenizer)
    return StableDiffusionPipeline(
        vae(latent_channels=4), encoder, tokenizer, unet(), ddim(prediction), None, None, requires_safety_checker=False
    )


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """Two encoders and micro-conditioning."""
    tokenizer = clip_tokenizer()
    denoiser = unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    encoders = clip_encoder(tokenizer), clip_encoder(tokenizer, projected=True)
    return StableDiffusionXLPipeline(
        vae(latent_channels=4, scaling_factor=0.13025), *encoders, tokenizer, tokenizer, denoiser, ddim()
    )


def stable_diffusion_3(t5: bool = True) -> StableDiffusion3Pipeline:
    """Three encoders, or two without T5."""
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    first, second = clip_encoder(tokenizer, projected=True), clip_encoder(tokenizer, projected=True)
    denoiser = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=SIDE,
    ).eval()
    return StableDiffusion3Pipeline(
        denoiser,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(latent_channels=4, scaling_factor=1.5305, shift_factor=0.0609),
        first,
        tokenizer,
        second,
        tokenizer,
        t5_encoder(tokenizer_3, 2 * WIDTH) if t5 else None,
        tokenizer_3 if t5 else None,
    )


def flux() -> FluxPipeline:
    """FLUX dev: told the guidance, noise levels shifted with the resolution."""
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    denoiser = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae(latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159),
        clip_encoder(tokenizer),
        tokenizer,
        t5_encoder(tokenizer_2),
        tokenizer_2,
        denoiser,
    )


TINY: Mapping[str, Callable[[], Any]] = {
    "sd": stable_diffusion,
    "sd-v": lambda: stable_diffusion("v_prediction"),
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "sd3-no-t5": lambda: stable_diffusion_3(t5=False),
    "flux": flux,
}
"""Families of tiny pipelines by name. FLUX takes any size: load it with `resolution=16`."""
