"""The CLIP that rewards: it tells captions with one thing wrong from true ones, on drawn, damaged and generated pictures.

A reward that is followed by gradient will be attacked by it, so it learns from attacks too: in the pixels, and in the latents
that the decoder turns into pictures. The oracle says what each picture shows; what it is unsure of fits no caption. Both towers
also answer what is there through one head, which brings them to common terms long before comparisons would.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from mmalign_shapes import grammar, oracle
from mmalign_shapes.grammar import Caption
from mmalign_shapes.pretrain.data import World, batches, floats, track
from mmalign_shapes.pretrain.generator import ANSWERS, LENGTH, answers, tokenize
from mmalign_shapes.pretrain.update import update
from mmalign_shapes.pretrain.vae import decode, encode

WRONG = 5
"""Captions with one thing wrong for each picture."""

_PEACE = 0.7
"""Share of the steps without attacks, which cost four times the others."""

_PIXEL_STEP = 6 / 255
_LATENT_STEP = 0.25


@dataclass(frozen=True)
class Shown:
    """Latents `[N, ...]`, their pictures, the prompt of each, and the caption that it fits; None where the oracle is unsure."""

    latents: Tensor
    pictures: Tensor
    prompts: Sequence[Caption]
    captions: Sequence[Caption | None]


def model_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """open_clip's description of the two small towers."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "tokenizer",
            "width": 96,
            "heads": 3,
            "layers": 3,
        },
    }


def new_clip(tokenizer: CLIPTokenizer) -> nn.Module:
    """Untrained."""
    config = model_config(tokenizer)
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])


def label(pictures: Tensor) -> list[Caption | None]:
    """What the oracle sees in each picture `[B, 3, 64, 64]`."""
    return [oracle.caption_seen(oracle.look(picture)) for picture in pictures]


def train_clip(
    world: World,
    generated: Shown,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    batch_size: int = 64,
) -> nn.Module:
    """Binary cross entropy of scale * cosine + bias, one true caption against `WRONG` others.

    The last steps are under attack: what there is to attack has to be learnt first.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    clip = new_clip(tokenizer).train()
    bias, head = nn.Parameter(torch.tensor(-4.0)), nn.Linear(model_config(tokenizer)["embed_dim"], sum(ANSWERS))
    weights = [*clip.parameters(), *head.parameters(), bias]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1)
    half = batch_size // 2
    turns = zip(
        batches(len(world), half, steps, seed), batches(len(generated.captions), half, steps, seed + 1), strict=True
    )
    for step, (a, b) in enumerate(track(turns, "clip", steps)):
        prompts = [world.captions[i] for i in a.tolist()] + [generated.prompts[i] for i in b.tolist()]
        shown = [world.captions[i] for i in a.tolist()] + [generated.captions[i] for i in b.tolist()]
        claims = [true or prompt for true, prompt in zip(shown, prompts, strict=True)]
        ids = tokenize(tokenizer, _choices(claims, prompts, shown, rng))
        fits = torch.tensor([float(true is not None) for true in shown])
        drawn = floats(world.pictures[a])
        if step < _PEACE * steps:
            pictures = _damaged(torch.cat([drawn, generated.pictures[b]]), drawn)
        else:
            latents = torch.cat([encode(vae, world.pictures[a]), generated.latents[b]])
            with torch.no_grad():
                match = _Match(clip, bias, _texts(clip, ids), fits)
            pictures = _damaged(_attacked_latents(match, vae, latents), drawn)
            verdicts = [oracle.judge(picture, claim) for picture, claim in zip(pictures, claims, strict=True)]
            fits = torch.tensor([float(verdict.correct) for verdict in verdicts])
            pictures = _attacked_pixels(replace(match, fits=fits), pictures)
        images, texts = clip.encode_image(pictures * 2 - 1), _texts(clip, ids)
        told = _told(head, images, claims, fits) + _told(head, texts[:, 0], claims, torch.ones_like(fits))
        loss = _Match(clip, bias, texts, fits).of(images) + told
        update(loss, weights, optimizer, schedule)
    return clip.eval()


def _told(head: nn.Module, embeddings: Tensor, claims: Sequence[Caption], fits: Tensor) -> Tensor:
    """How badly embeddings `[B, D]` answer what their captions say, where those fit; in the order of the names."""
    right = torch.tensor([answers(in_order(claim)) for claim in claims]).unbind(1)
    parts = zip(head(embeddings).split(ANSWERS, dim=1), right, strict=True)
    errors = torch.stack([F.cross_entropy(answer, r, reduction="none") for answer, r in parts]).mean(0)
    return (errors * fits).sum() / fits.sum().clamp_min(1)


def in_order(claim: Caption) -> Caption:
    """The same claim whichever way round it was said."""
    things = tuple(sorted(claim.kinds, key=str))
    return Caption(things) if claim.relation is None else min(claim, grammar.turned_round(claim), key=str)


def save_clip(clip: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write what open_clip loads by `local-dir:FOLDER`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": model_config(tokenizer),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    }
    (folder / HF_CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: weight.contiguous() for name, weight in clip.state_dict().items()}, folder / HF_SAFE_WEIGHTS_NAME)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class _Match:
    """How badly pictures match their texts `[B, 1 + WRONG, D]`, of which the first fits where `fits` `[B]` is 1."""

    clip: Any
    bias: Tensor
    texts: Tensor
    fits: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.of(self.clip.encode_image(pictures * 2 - 1))

    def of(self, images: Tensor) -> Tensor:
        """The same for embeddings `[B, D]` of the pictures."""
        cosines = F.cosine_similarity(images[:, None], self.texts, dim=-1)
        logits = self.clip.logit_scale.exp() * cosines + self.bias
        targets = F.pad(self.fits[:, None], (0, WRONG))
        weights = torch.where(targets > 0, 1.0, 2.0 / WRONG)
        return F.binary_cross_entropy_with_logits(logits, targets, weight=weights)


def _texts(clip: Any, ids: Tensor) -> Tensor:
    """Embeddings `[B, 1 + WRONG, D]` of as many texts."""
    embeddings: Tensor = clip.encode_text(ids)
    return embeddings.unflatten(0, (-1, 1 + WRONG))


def _choices(
    claims: Sequence[Caption], prompts: Sequence[Caption], shown: Sequence[Caption | None], rng: random.Random
) -> list[str]:
    """`1 + WRONG` texts a picture: what it shows; then what it was asked for if it shows something else, one of another
    picture, one that counts wrong, and the rest with one thing wrong.
    """
    texts: list[str] = []
    for claim, prompt, true in zip(claims, prompts, shown, strict=True):
        said = claim if rng.random() < 0.5 else grammar.turned_round(claim)
        missed = true is not None and prompt not in (true, grammar.turned_round(true))
        wrong = [prompt] if missed else []
        wrong += [other for other in [rng.choice(claims)] if set(other.kinds) != set(claim.kinds)]
        wrong.append(grammar.miscounted(said, rng))
        wrong += [grammar.corrupted(said, rng) for _ in range(WRONG - len(wrong))]
        texts += [grammar.say(caption, rng) for caption in (said, *wrong)]
    return texts


def _attacked_latents(match: _Match, vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decoded pictures after one step in the latents that raises the loss, from a random start."""
    start = (latents + 0.05 * torch.randn_like(latents)).requires_grad_(True)
    (slope,) = torch.autograd.grad(match(decode(vae, start)), start)
    size = _LATENT_STEP * torch.rand(len(latents), 1, 1, 1)
    with torch.no_grad():
        return decode(vae, start + size * slope.sign())


def _attacked_pixels(match: _Match, pictures: Tensor) -> Tensor:
    """Pictures after one step in the pixels that raises the loss."""
    start = pictures.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(match(start), start)
    size = _PIXEL_STEP * torch.rand(len(pictures), 1, 1, 1)
    return (pictures + size * slope.sign()).clamp(0, 1).detach()


def _damaged(pictures: Tensor, drawn: Tensor) -> Tensor:
    """Some of the drawn ones as they were drawn, and noise or blur on some of all."""
    clean = torch.rand(len(drawn), 1, 1, 1) < 0.3
    pictures = torch.cat([torch.where(clean, drawn, pictures[: len(drawn)]), pictures[len(drawn) :]])
    noise = torch.randn_like(pictures) * 0.06 * (torch.rand(len(pictures), 1, 1, 1) < 0.3)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = torch.rand(len(pictures), 1, 1, 1) < 0.15
    return (torch.where(blur, blurred, pictures) + noise).clamp(0, 1)
