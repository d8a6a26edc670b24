"""Small checkpoints of every family with random weights: classes and files as of the real ones, a millionth of the size.

Nothing is downloaded; the tokenizer is trained here, too. They load through the code that loads the real ones, so a recipe
can be rehearsed with them.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WIDTH = 32
SIDE, PATCH = 16, 4
"""Sides of what the vision towers see, and of its patches."""
CORPUS = [
    "User: what is this? Is there a red circle, a blue square or a green triangle in the picture?\n",
    "Assistant: there is a red circle above two blue squares. No, nothing is green. Yes, it is a triangle.\n",
]
SPECIAL = ["<pad>", "<bos>", "<|im_start|>", "<|im_end|>"]
_TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}
_VISION = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_SQUARE = {"height": SIDE, "width": SIDE}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Save the tiny model of a family (a key of `TINY`) and its processor in `folder`, which is returned."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = TINY[family]()
        for weight in model.parameters():
            weight.data *= 3.0 if weight.ndim > 1 else 1.0  # random weights say nearly the same of everything
    model.generation_config.eos_token_id = 3
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer(placeholders: Iterable[str] = (), named: Mapping[str, str] | None = None) -> Any:
    """A byte-level BPE of some words. placeholders: special tokens. named: more of them, attributes by these names."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *placeholders, *(named or {}).values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(CORPUS, trainer)
    made = hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|im_end|>",
        model_max_length=2048,
        extra_special_tokens=dict(named or {}),
    )
    made.add_special_tokens({"additional_special_tokens": list(placeholders)}, replace_extra_special_tokens=False)
    return made


def chat(image: str, video: str = "") -> str:
    """A chat template; what it writes where a picture or a video is shown."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def llama(words: Any) -> Any:
    """The language model of LLaVA and Idefics."""
    return hf.LlamaConfig(**_TEXT, vocab_size=len(words))


def clip() -> Any:
    """The vision tower of LLaVA and LLaVA-NeXT, which has a class token."""
    return hf.CLIPVisionConfig(**_VISION, image_size=SIDE, patch_size=PATCH, projection_dim=WIDTH)


def siglip() -> Any:
    """The vision tower of LLaVA-OneVision and PaliGemma, which has none."""
    return hf.SiglipVisionConfig(
        **_VISION, image_size=SIDE, patch_size=PATCH, vision_use_head=False, projection_dim=WIDTH
    )


def llava() -> tuple[Any, Any]:
    """LLaVA 1.5: one size for all pictures."""
    words = tokenizer(["<image>"])
    pictures = hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    options = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = hf.LlavaProcessor(pictures, words, chat_template=chat("<image>\n"), **options)
    config = hf.LlavaConfig(
        vision_config=clip(), text_config=llama(words), image_token_id=words.convert_tokens_to_ids("<image>")
    )
    return hf.LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT: pictures in tiles that fit their shape."""
    words = tokenizer(["<image>"])
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    pictures = hf.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=_SQUARE, image_grid_pinpoints=grid, do_pad=True
    )
    options = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = hf.LlavaNextProcessor(pictures, words, chat_template=chat("<image>\n"), **options)
    image = words.convert_tokens_to_ids("<image>")
    config = hf.LlavaNextConfig(
        vision_config=clip(), text_config=llama(words), image_token_id=image, image_grid_pinpoints=grid
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision: one picture in tiles, several at one size each, videos pooled."""
    words = tokenizer(["<image>", "<video>"])
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    pictures = hf.LlavaOnevisionImageProcessor(size=_SQUARE, image_grid_pinpoints=grid)
    processor = hf.LlavaOnevisionProcessor(
        pictures,
        words,
        hf.LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat("<image>\n", "<video>\n"),
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=hf.Qwen2Config(**_TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def qwen(version: str, vision: Mapping[str, Any], **text: Any) -> tuple[Any, Any]:
    """Qwen2-VL and what came after it: pictures at their own size, positions in time, height and width."""
    around = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(around)
    start, end, image, video = words.convert_tokens_to_ids(around)
    sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    edges = {"shortest_edge": 8 * 8, "longest_edge": 24 * 24}
    shown = hf.Qwen3VLVideoProcessor if version == "Qwen3VL" else hf.Qwen2VLVideoProcessor
    processor = getattr(hf, f"{version}Processor")(
        hf.Qwen2VLImageProcessor(**sizes, size=edges),
        words,
        shown(**sizes, size={"shortest_edge": 8 * 8, "longest_edge": 4 * 24 * 24}),
        chat_template=chat(f"{around[0]}{around[2]}{around[1]}", f"{around[0]}{around[3]}{around[1]}"),
    )
    rope = {"rope_parameters": {**_ROPE, "mrope_section": [4, 2, 2], **text}}
    config = getattr(hf, f"{version}Config")(
        vision_config={"patch_size": PATCH, "spatial_merge_size": 2, "num_heads": 2, "depth": 2, **vision},
        text_config={**_TEXT, **rope, "vocab_size": len(words)},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return getattr(hf, f"{version}ForConditionalGeneration")(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL."""
    return qwen("Qwen2VL", {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2})


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL: attention within windows in its vision tower."""
    windows = {"window_size": 2 * PATCH * 2, "fullatt_block_indexes": [1]}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "out_hidden_size": WIDTH}
    return qwen("Qwen2_5_VL", {**sizes, **windows})


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL: features of several depths, which layers of the language model add; frames have times."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "out_hidden_size": WIDTH, "num_position_embeddings": 16}
    return qwen("Qwen3VL", {**sizes, "deepstack_visual_indexes": [0]}, mrope_interleaved=True)


def internvl() -> tuple[Any, Any]:
    """InternVL in transformers' layout: tiles; frames of a video are pictures to the model."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>"}
    named |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    words = tokenizer(named=named)
    features = (SIDE // PATCH // 2) ** 2
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=3),
        words,
        hf.InternVLVideoProcessor(size=_SQUARE),
        image_seq_length=features,
        chat_template=chat("<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**_VISION, image_size=[SIDE, SIDE], patch_size=[PATCH, PATCH]),
        text_config=hf.Qwen2Config(**_TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=features,
    )
    return hf.InternVLForConditionalGeneration(config), processor


def idefics(version: str = "Idefics3") -> tuple[Any, Any]:
    """Idefics3 and the first SmolVLM; or SmolVLM2, whose processor writes times of frames (and needs num2words)."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    around = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>"]
    words = tokenizer([*around, *tiles])
    size = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    pictures = getattr(hf, f"{version}ImageProcessor")(**size)
    videos = [hf.SmolVLMVideoProcessor(**size)] if version == "SmolVLM" else []
    processor = getattr(hf, f"{version}Processor")(
        pictures, words, *videos, image_seq_len=4, chat_template=chat("<image>", "<video>")
    )
    config = getattr(hf, f"{version}Config")(
        vision_config={**_VISION, "image_size": SIDE, "patch_size": PATCH},
        text_config=llama(words),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return getattr(hf, f"{version}ForConditionalGeneration")(config), processor


def paligemma(version: str = "gemma") -> tuple[Any, Any]:
    """PaliGemma: no chat template; the prompt is read in both directions. Version 2, on Gemma 2, caps its logits."""
    words = tokenizer(["<image>"])
    pictures = hf.SiglipImageProcessor(size=_SQUARE)
    pictures.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(pictures, words)
    text = {**_TEXT, "vocab_size": len(words), "model_type": version}
    text |= {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16} if version == "gemma2" else {}
    config = hf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


TINY: Mapping[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "llava-next": llava_next,
    "llava-onevision": llava_onevision,
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics,
    "smolvlm": lambda: idefics("SmolVLM"),
    "paligemma": paligemma,
    "paligemma2": lambda: paligemma("gemma2"),
}
"""Families by name."""
