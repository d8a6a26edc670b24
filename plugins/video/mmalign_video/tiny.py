"""Small video pipelines of every family with random weights: classes and files as of the real ones, a thousandth of the size.

Nothing is downloaded. They load through the code that loads the real ones, so a recipe can be rehearsed with them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    UMT5Config,
    UMT5EncoderModel,
)

from mmalign_diffusion.tiny import WIDTH, clip_encoder, clip_tokenizer, t5_encoder, t5_tokenizer

SIDE, FRAMES = 32, 9
"""Height and width of the videos in pixels, and how many frames they have."""


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny pipeline of a family (of `TINY` or `FROM_PICTURES`) in `folder` and return it. Same seed, same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        {**TINY, **FROM_PICTURES}[family]().save_pretrained(folder)
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


def wan_from_picture(looking: bool = True) -> WanImageToVideoPipeline:
    """Wan 2.1, whose transformer attends to CLIP's states; without `looking` as of 2.2."""
    tokenizer = t5_tokenizer()
    seen = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    asked = {"image_dim": WIDTH, "added_kv_proj_dim": 24} if looking else {}
    return WanImageToVideoPipeline(
        tokenizer,
        umt5_encoder(len(tokenizer)),
        wan_vae(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}) if looking else None,
        CLIPVisionModel(seen).eval() if looking else None,
        wan_transformer(in_channels=4 + 4 + 4, **asked),
    )


def ltx(denoising_decoder: bool = False) -> LTXPipeline:
    """LTX-Video, whose noise levels move up with the video's size; of 0.9.1 and later with a decoder that is told a time."""
    tokenizer = t5_tokenizer()
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        timestep_conditioning=denoising_decoder,
        patch_size=1,
    ).eval()
    vae.latents_mean.uniform_(-0.3, 0.3)
    vae.latents_std.uniform_(0.5, 1.5)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=WIDTH,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=64, shift_terminal=0.1
    )
    return LTXPipeline(scheduler, vae, t5_encoder(tokenizer), tokenizer, transformer)


def cogvideox_from_picture() -> CogVideoXImageToVideoPipeline:
    """CogVideoX of 5B, which begins with a picture."""
    return CogVideoXImageToVideoPipeline(**cogvideox(in_channels=8).components)


def cogvideox(rotary: bool = True, together: int | None = None, in_channels: int = 4) -> CogVideoXPipeline:
    """CogVideoX of 5B; without `rotary` places of 2B, `together` latent frames a token in 1.5."""
    tokenizer = t5_tokenizer()
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_height=SIDE // 4,
        sample_width=SIDE // 4,
        sample_frames=FRAMES,
        patch_size_t=together,
        patch_bias=together is None,
        use_rotary_positional_embeddings=rotary,
    ).eval()
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return CogVideoXPipeline(tokenizer, t5_encoder(tokenizer), vae, transformer, scheduler)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, and one a word of the text that HunyuanVideo puts around prompts."""
    letters = [chr(code) for code in range(33, 127)]
    words = [word for word, _ in Whitespace().pre_tokenize_str(DEFAULT_PROMPT_TEMPLATE["template"])]
    tokens = dict.fromkeys(["<unk>", "<pad>", *letters, *(f"##{letter}" for letter in letters), *words])
    made = Tokenizer(WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", padding_side="right", model_max_length=512
    )


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL and its processor, which take frames of 8 to 24 pixels a side."""
    around = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    letters = [chr(code) for code in range(33, 127)]
    tokens = dict.fromkeys(["<pad>", "<unk>", *around, *letters, *(f"##{letter}" for letter in letters)])
    words = Tokenizer(WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": around})
    start, end, image, video = tokenizer.convert_tokens_to_ids(around)
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    edges = {"shortest_edge": 8 * 8, "longest_edge": 24 * 24}
    template = (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'video' %}"
        f"{around[0]}{around[3]}{around[1]}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**sizes, size=edges),
        tokenizer,
        Qwen2VLVideoProcessor(**sizes, size=edges),
        chat_template=template,
    )
    width = 2 * WIDTH
    config = Qwen2VLConfig(
        vision_config={
            "patch_size": 4,
            "spatial_merge_size": 2,
            "num_heads": 2,
            "depth": 2,
            "embed_dim": width,
            "hidden_size": width,
            "mlp_ratio": 2,
        },
        text_config={
            "hidden_size": width,
            "intermediate_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [width // 16, width // 16, width // 8],
            },
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return Qwen2VLForConditionalGeneration(config), processor


def save_judge(folder: Path, seed: int = 0) -> Path:
    """Save the tiny Qwen2-VL and its processor in `folder` and return it. Same seed, same weights."""
    return _saved(qwen2_vl, folder, seed)


def _saved(make: Callable[[], tuple[Any, Any]], folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in make():
            part.save_pretrained(folder)
    return folder


def owlv2() -> tuple[Any, Any]:
    """OWLv2 and its processor: a box for each of 16 patches, about half of which it is surer of than not."""
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 16
    tower = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Owlv2Config(
        text_config={**tower, **words, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**tower, "image_size": 16, "patch_size": 4},
        projection_dim=WIDTH,
    )
    processor = Owlv2Processor(Owlv2ImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    return Owlv2ForObjectDetection(config).eval(), processor


def save_detector(folder: Path, seed: int = 0) -> Path:
    """Save the tiny OWLv2 and its processor in `folder` and return it. Same seed, same weights."""
    return _saved(owlv2, folder, seed)


def hunyuan() -> HunyuanVideoPipeline:
    """HunyuanVideo, told the guidance."""
    tokenizer, tokenizer_2 = llama_tokenizer(), clip_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
    ).eval()
    return HunyuanVideoPipeline(
        LlamaModel(llama).eval(),
        tokenizer,
        transformer,
        vae,
        FlowMatchEulerDiscreteScheduler(shift=7.0),
        clip_encoder(tokenizer_2),
        tokenizer_2,
    )


TINY: Mapping[str, Callable[[], Any]] = {
    "wan": wan,
    "wan-experts": lambda: wan(experts=True),
    "wan-5b": lambda: wan(expand_timesteps=True),
    "ltx": ltx,
    "ltx-denoising-decoder": lambda: ltx(denoising_decoder=True),
    "cogvideox": cogvideox,
    "cogvideox-2b": lambda: cogvideox(rotary=False),
    "hunyuan": hunyuan,
}
"""Families of tiny pipelines by name. Load them with `height=32, width=32, frames=9`."""
FROM_PICTURES: Mapping[str, Callable[[], Any]] = {
    "wan-from-picture": wan_from_picture,
    "wan-2.2-from-picture": lambda: wan_from_picture(looking=False),
    "cogvideox-from-picture": cogvideox_from_picture,
}
"""The same for those that begin with a picture, which the prompt shows."""
