"""What the trained checkpoints can do, by the oracle: figures for `training.json`."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, WanPipeline
from torch import Tensor, nn

from mmalign.records import Prompt, Samples
from mmalign_shapes import grammar, moving_captions, moving_oracle, oracle
from mmalign_shapes.images import REQUEST
from mmalign_shapes.moving_captions import Movers
from mmalign_shapes.pretrain import video, video_vae
from mmalign_shapes.pretrain.captioner import Shown, answer, rows
from mmalign_shapes.pretrain.data import World, floats
from mmalign_shapes.pretrain.generator import sample, tokenize
from mmalign_shapes.pretrain.questions import FORMS, Asked, facts, sentences
from mmalign_shapes.pretrain.vae import decode, encode
from mmalign_shapes.pretrain.video_vae import Videos
from mmalign_shapes.prompts import ShapesPrompts
from mmalign_shapes.rewards import CaptionOracle
from mmalign_shapes.scenes import Scene
from mmalign_shapes.statements import TYPES

SAMPLING = {"steps": 8, "guidance_scale": 2.0}
VIDEO_SAMPLING: dict[str, Any] = {"steps": 8, "guidance_scale": 2.0}
_BATCH = 64

Talk = Callable[[Scene, random.Random], Iterable[Asked]]
"""Questions about a scene with their answers."""


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


def measure_captioner(model: Any, processor: Any, unseen: Shown, seed: int) -> dict[str, Any]:
    """How much of what the captioner says of unseen pictures is false, as it samples and where it says the likeliest; how many
    questions about them it answers rightly, as a mean of those to say yes to and those to say no to.
    """
    torch.manual_seed(seed)
    talks: Mapping[str, Talk] = {"sentences": sentences, **{form: partial(facts, forms=[form]) for form in FORMS}}
    answers = {name: _answered(model, processor, unseen, talk, seed) for name, talk in talks.items()}
    return {
        "pictures": len(unseen),
        "sampled": _described(model, processor, unseen, temperature=1.0),
        "likeliest": _described(model, processor, unseen, temperature=0.0),
        "answers": answers,
    }


def _described(model: Any, processor: Any, unseen: Shown, temperature: float) -> dict[str, float]:
    """Shares of all statements that are false, recall and length of the oracle of captions, and statements a description."""
    chunks = unseen.pictures.split(_BATCH)
    texts = [text for chunk in chunks for text in answer(model, processor, chunk, temperature)]
    judged = [one for text, scene in zip(texts, unseen.scenes, strict=True) for one in oracle.judged(text, scene)]
    told = [one for one in judged if one.true is not None]
    by_type = {name: [one for one in told if one.statement.claim.type == name] for name in TYPES}
    prompts = [Prompt(REQUEST, {"scene": scene}) for scene in unseen.scenes]
    means = {name: float(one.mean()) for name, one in CaptionOracle()(Samples(prompts, texts)).dimensions.items()}
    false = {name: sum(not one.true for one in some) / max(1, len(some)) for name, some in by_type.items()}
    return {
        "hallucination": sum(not one.true for one in told) / max(1, len(told)),
        **false,
        **{name: means[name] for name in ("recall", "statements", "length")},
    }


@torch.no_grad()
def _answered(model: Any, processor: Any, unseen: Shown, talk: Talk, seed: int) -> float:
    """Balanced accuracy of the answers, which are a token and an end each."""
    rng, right = random.Random(seed), {"Yes": list[bool](), "No": list[bool]()}
    for start in range(0, len(unseen), _BATCH):
        dialogues = [list(talk(scene, rng)) for scene in unseen.scenes[start : start + _BATCH]]
        ids, labels = rows(processor, dialogues)
        pixels = floats(unseen.pictures[start : start + _BATCH]) * 2 - 1
        likeliest = model(input_ids=ids, pixel_values=pixels).logits[:, :-1].argmax(-1)
        for row, counted, dialogue in zip(likeliest, labels[:, 1:], dialogues, strict=True):
            answers = (row == counted)[counted != -100][::2].tolist()
            for (_, side), ok in zip(dialogue, answers, strict=True):
                right[side].append(ok)
    return sum(sum(some) / max(1, len(some)) for some in right.values()) / 2


@torch.no_grad()
def measure_video(pipe: WanPipeline, unseen: Videos, seed: int) -> dict[str, Any]:
    """How well the autoencoder keeps videos, and how good those of held-out captions are, by the oracle of videos."""
    latents = video_vae.encode(pipe.vae, unseen.pixels)
    kept = torch.cat([video_vae.decode(pipe.vae, chunk) for chunk in latents.split(_BATCH)])
    claims = random.Random(seed).choices(moving_captions.captions("held-out"), k=len(unseen))
    generator, texts = torch.Generator().manual_seed(seed), [moving_captions.say(claim) for claim in claims]
    chunks = [texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH)]
    made = torch.cat([video.sample(pipe, chunk, **VIDEO_SAMPLING, generator=generator) for chunk in chunks])
    return {
        "autoencoder": _rated(kept, unseen.captions),
        "generator": _rated(made, claims),
        "videos": len(unseen),
        "sampling": VIDEO_SAMPLING,
    }


def _rated(videos: Tensor, claims: Sequence[Movers]) -> dict[str, float]:
    """Means of the oracle's dimensions, and the share that it is unsure of."""
    found = [moving_oracle.rate(one, claim) for one, claim in zip(videos, claims, strict=True)]
    return {
        name: sum(getattr(one, name) for one in found) / len(found) for name in (*moving_oracle.DIMENSIONS, "unsure")
    }


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
