"""What the trained checkpoints can do, by the oracle: figures for `training.json`."""

from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from mmalign_shapes import grammar, oracle
from mmalign_shapes.pretrain.data import World
from mmalign_shapes.pretrain.generator import sample, tokenize
from mmalign_shapes.pretrain.vae import decode, encode
from mmalign_shapes.prompts import ShapesPrompts

SAMPLING = {"steps": 8, "guidance_scale": 2.0}
_BATCH = 64


@torch.no_grad()
def measure_generator(pipeline: StableDiffusionPipeline, unseen: World, seed: int) -> dict[str, Any]:
    """How well the autoencoder keeps pictures, and how often the generator draws what held-out prompts ask for."""
    kept = torch.cat([decode(pipeline.vae, chunk) for chunk in encode(pipeline.vae, unseen.pictures).split(_BATCH)])
    kept_right, _ = oracle.judge_batch(kept, [grammar.say(caption) for caption in unseen.captions])
    texts, made = held_out_pictures(pipeline, 256, seed)
    right, unsure = oracle.judge_batch(made, texts)
    return {
        "autoencoder_oracle_accuracy": float(kept_right.mean()),
        "generator_oracle_accuracy": float(right.mean()),
        "generator_unsure": float(unsure.mean()),
        "prompts": len(texts),
        "sampling": SAMPLING,
    }


@torch.no_grad()
def measure_clip(clip: Any, pipeline: StableDiffusionPipeline, seed: int) -> dict[str, Any]:
    """How well the CLIP tells right from wrong pictures of the generator, for held-out prompts."""
    texts, made = held_out_pictures(pipeline, 352, seed + 1)
    right = torch.from_numpy(oracle.judge_batch(made, texts)[0])
    scores = cosine(clip, pipeline.tokenizer, made, texts)
    return {"auc": auc(scores, right), "balanced_accuracy": balanced_accuracy(scores, right), "pictures": len(texts)}


def held_out_pictures(pipeline: StableDiffusionPipeline, size: int, seed: int) -> tuple[list[str], Tensor]:
    """Held-out prompts and a picture of each, `[size, 3, 64, 64]`."""
    generator = torch.Generator().manual_seed(seed)
    texts = [row["prompt"].text for row in ShapesPrompts("held-out", size=size)]
    chunks = [texts[i : i + _BATCH] for i in range(0, size, _BATCH)]
    made = [sample(pipeline, chunk, SAMPLING["steps"], SAMPLING["guidance_scale"], generator) for chunk in chunks]
    return texts, torch.cat([decode(pipeline.vae, latents) for latents in made])


def cosine(clip: nn.Module, tokenizer: Any, pictures: Tensor, texts: list[str]) -> Tensor:
    """`[B]` similarities of pictures and their texts."""
    images = clip.encode_image(pictures * 2 - 1, normalize=True)
    return (images * clip.encode_text(tokenize(tokenizer, texts), normalize=True)).sum(-1)


def auc(scores: Tensor, right: Tensor) -> float:
    """The chance that a right picture scores above a wrong one."""
    difference = scores[right][:, None] - scores[~right][None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def balanced_accuracy(scores: Tensor, right: Tensor) -> float:
    """Mean accuracy on right and on wrong pictures, at the threshold where it is highest."""
    above = scores[None, :] >= scores.unique()[:, None]
    halves = above[:, right].double().mean(1) + (~above[:, ~right]).double().mean(1)
    return float(halves.max() / 2)
