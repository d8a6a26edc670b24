"""A folder in which recipes for real models run: tiny checkpoints under the ids that they name, a few rows of all their data."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from mmalign.records import Prompt, Samples
from mmalign_diffusion import pictures
from mmalign_diffusion import tiny as tiny_pictures
from mmalign_lvlm import tiny as tiny_words
from mmalign_video import tiny as tiny_videos
from mmalign_video import videos

COUNT = 4
"""Rows of each file."""

SIDES = ("there is a red circle", "there is a blue square")
TOLD = "There is a red circle. There is a blue square."


def standing_in(root: Path) -> None:
    """Tiny models of the architectures that recipes name, where transformers and diffusers look for a local folder first."""
    for name, save in MODELS.items():
        folder = root / name
        folder.mkdir(parents=True)
        save(folder)


def clip(folder: Path) -> None:
    """A CLIP of transformers."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = tiny_words.tokenizer()
    tower = transformers.CLIPVisionConfig(**small, image_size=16, patch_size=4)
    text = transformers.CLIPTextConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=77)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=tower.to_dict(), projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer).save_pretrained(folder)


def family(tiny: Any, name: str) -> Callable[[Path], object]:
    """Saves a family's tiny model."""
    return lambda folder: tiny.save(name, folder)


MODELS: Mapping[str, Callable[[Path], object]] = {
    "llava-hf/llava-1.5-7b-hf": family(tiny_words, "llava"),
    "llava-hf/llava-1.5-13b-hf": family(tiny_words, "llava"),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": family(tiny_words, "llava-onevision"),
    "Qwen/Qwen2-VL-2B-Instruct": family(tiny_words, "qwen2-vl"),
    "Qwen/Qwen2-VL-7B-Instruct": family(tiny_words, "qwen2-vl"),
    "Qwen/Qwen2.5-VL-7B-Instruct": family(tiny_words, "qwen2.5-vl"),
    "rating": tiny_videos.save_judge,
    "openai/clip-vit-base-patch32": clip,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": family(tiny_pictures, "sd"),
    "CompVis/stable-diffusion-v1-4": family(tiny_pictures, "sd"),
    "stabilityai/stable-diffusion-xl-base-1.0": family(tiny_pictures, "sdxl"),
    "stabilityai/stable-diffusion-3.5-medium": family(tiny_pictures, "sd3"),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": family(tiny_videos, "wan"),
    "google/owlv2-base-patch16-ensemble": tiny_videos.save_detector,
}


def data(root: Path) -> None:
    """Every file that recipes read, in its layout."""
    rng, prompts = torch.Generator().manual_seed(0), [Prompt("a red circle")] * COUNT
    pictures.write(torch.rand(COUNT, 3, 32, 40, generator=rng), root)
    videos.write(Samples(prompts, torch.rand(COUNT, 9, 3, 32, 32, generator=rng), frame_rate=8.0), root)
    for name, lines in TEXTS.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, columns in ROWS.items():
        rows = [
            {key: cell[i] if isinstance(cell, list) else cell for key, cell in columns.items()} for i in range(COUNT)
        ]
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 32), "red").save(file, "PNG")
    return file.getvalue()


def _segments(good: str, bad: str) -> list[Any]:
    return [[[0, 22, {"accuracy": good}], [23, 46, {"accuracy": bad}]]] * COUNT


PICTURES, VIDEOS = ([f"{i:04d}.{kind}" for i in range(COUNT)] for kind in ("png", "mp4"))
OTHERS = [*VIDEOS[1:], VIDEOS[0]]
ASKED: Mapping[str, Any] = {"prompt": "what is this?", "images": [[name] for name in PICTURES]}
DRAWN: Mapping[str, Any] = {"prompt": "a red circle", "sample": VIDEOS}
VOTES = [f"{a},{b},a red circle,{'AB'[i % 2]},B,same" for i, (a, b) in enumerate(zip(VIDEOS, OTHERS, strict=True))]

TEXTS: Mapping[str, Sequence[str]] = {
    "prompts.txt": ["a red circle", "a blue square", "a green triangle", "a circle"],
    "held-out.txt": ["a red square", "a blue circle"],
    "train.csv": ["path_A,path_B,prompt,VQ,MQ,TA", *VOTES],
    "held-out.csv": ["path_A,path_B,prompt,VQ,MQ,TA", *VOTES],
}
JUDGED: Mapping[str, Any] = {
    **ASKED,
    "first": SIDES[0],
    "second": SIDES[1],
    "preference": "first",
    "caption": "a circle",
}
ACCURATE: Mapping[str, Any] = {**ASKED, "completion": TOLD, "segments": _segments("accurate", "inaccurate")}
ROWS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("prompts.jsonl", "described.jsonl", "held-out.jsonl"), ASKED),
    "pairs.jsonl": {**ASKED, "chosen": SIDES[0], "rejected": SIDES[1]},
    "preferences.jsonl": {**JUDGED, "chosen": SIDES[0], "rejected": SIDES[1], "strength": 1.5},
    "preferences-held-out.jsonl": JUDGED,
    "critiques.jsonl": {**ASKED, "critique": "it is right", "score": 3, "answer": "a circle", "completion": SIDES[0]},
    "refinements.jsonl": {**ASKED, "advice": "say more", "answer": "a circle", "completion": SIDES[0]},
    "segments.jsonl": {**ASKED, "completion": TOLD, "segments": _segments("faithful", "hallucinated")},
    "m-haldetect.jsonl": ACCURATE,
    "m-haldetect-held-out.jsonl": ACCURATE,
    "questions.jsonl": {**ASKED, "answer": "circle"},
    "detection.jsonl": {**ASKED, "boxes": [[[1, 1, 10, 10]]] * COUNT, "size": [[40, 32]] * COUNT},
    "corrected.jsonl": {"image": PICTURES, "question": "what is this?", "chosen": SIDES[0], "rejected": SIDES[1]},
    "pick-a-pic.jsonl": {
        "caption": "a red circle",
        "jpg_0": PICTURES,
        "jpg_1": [*PICTURES[1:], PICTURES[0]],
        "label_0": [1.0, 0.0, 1.0, 0.0],
        "label_1": [0.0, 1.0, 0.0, 1.0],
    },
    "scored.jsonl": {**DRAWN, "score": [-1.5, -0.5, 0.5, 1.5]},
    "winners.jsonl": DRAWN,
    "test.jsonl": {
        "question": "what is this?",
        "image": base64.b64encode(_picture()).decode(),
        "response": {"reasoning": ["It is red."], "answer": "a circle"},
        "answer_correctness": False,
        "reasoning_correctness": [[False]] * COUNT,
        "reasoning_critic": [[["It is blue."] * 3]] * COUNT,
    },
    "ratings.jsonl": {**DRAWN, "scenario": "OE", "ratings": [{"AE": float(i), "IA": 3.0} for i in range(COUNT)]},
}
