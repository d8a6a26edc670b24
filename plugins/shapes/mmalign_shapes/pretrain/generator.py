"""The generator: a Stable Diffusion pipeline (v-prediction) that draws cleanly and errs in content.

A share of its captions is wrong, so it half knows what a caption asks for. Alignment is to repair just that. It predicts v as
Stable Diffusion 2 does: content is decided at noisy times, where a network of this size that predicts epsilon learns nothing.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mmalign_shapes import grammar
from mmalign_shapes.grammar import Caption
from mmalign_shapes.pretrain.data import World, batches, track
from mmalign_shapes.pretrain.update import update
from mmalign_shapes.pretrain.vae import encode
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES

WIDTH = 128
LENGTH = 24

BATCH_SIZE = 64
LEARNING_RATE = 1.5e-3
READING_STEPS = 400

ANSWERS = [len(COLORS) + 1, len(SHAPES) + 1] * 3 + [len(RELATIONS) + 1]
"""How many answers there are to each question of `answers`."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of `texts` is one token and any other text still is some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learned_merges(sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())}))
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges), _START, _END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def learned_merges(words: Sequence[str], end: str = "</w>") -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until each word is one token. end: what marks a word's last letter.

    The trainer of `tokenizers` breaks ties as its hash tables fall, so that a seed would not fix the ids.
    """
    spelled = [[*word[:-1], f"{word[-1]}{end}"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for letters in spelled for pair in pairwise(letters)):
        merges.append(max(sorted(pairs), key=lambda pair: pairs[pair]))
        spelled = [_merged(letters, merges[-1]) for letters in spelled]
    return merges


def _merged(letters: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for letter in letters:
        if joined and (joined[-1], letter) == pair:
            joined[-1] += letter
        else:
            joined.append(letter)
    return joined


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Untrained, three layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_unet() -> UNet2DConditionModel:
    """Untrained, for 8 x 8 latents."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with a longer tail, so that hardly any signal is left where sampling starts."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )


@dataclass(frozen=True)
class Phase:
    """Part of the denoiser's training.

    horizon: steps in which the learning rate would fall to nothing; more than `steps` stops it on the way.
    corruption: share of the captions that are wrong.
    """

    steps: int
    horizon: int
    corruption: float


PHASES = (Phase(3_000, 5_500, corruption=0.1), Phase(1_000, 1_000, corruption=0.5))
"""First it learns to draw what a caption says, then to draw cleanly and to doubt."""


def train_generator(
    world: World, vae: AutoencoderKL, seed: int, phases: Sequence[Phase] = PHASES
) -> StableDiffusionPipeline:
    """A pipeline trained from nothing: first its text encoder learns to read, then its denoiser to draw what that has read."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = new_tokenizer([grammar.say(caption, rng) for caption in world.captions[:4000]])
    text_encoder = train_reader(tokenizer, world, READING_STEPS, seed).eval().requires_grad_(False)
    unet, scheduler, latents = new_unet(), new_scheduler(), encode(vae, world.pictures)
    for number, phase in enumerate(phases):
        claims = [grammar.corrupted(c, rng) if rng.random() < phase.corruption else c for c in world.captions]
        train_denoiser(unet, text_encoder, tokenizer, scheduler, latents, claims, phase, seed + number)
    return pipeline(vae, text_encoder, tokenizer, unet.eval(), scheduler)


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
    latents: Tensor,
    claims: Sequence[Caption],
    phase: Phase,
    seed: int,
) -> None:
    """Predict v of noised latents `[N, 8, 8, 8]` under their captions, a tenth of them empty. Leaves averaged weights."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    weights = list(unet.train().parameters())
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=phase.horizon, pct_start=0.05
    )
    average = EMAModel(weights, decay=0.998)
    for indices in track(batches(len(claims), BATCH_SIZE, phase.steps, seed), "generator", phase.steps):
        clean, times = latents[indices], torch.randint(0, 1000, (BATCH_SIZE,))
        noise = torch.randn_like(clean)
        ids = tokenize(tokenizer, [_words(claims[i], rng) for i in indices.tolist()])
        noised = scheduler.add_noise(clean, noise, times)
        predicted = unet(noised, times, text_encoder(ids).last_hidden_state).sample
        loss = F.mse_loss(predicted, scheduler.get_velocity(clean, noise, times))
        update(loss, weights, optimizer, schedule)
        average.step(weights)
    average.copy_to(weights)


def train_reader(tokenizer: CLIPTokenizer, world: World, steps: int, seed: int) -> CLIPTextModel:
    """A text encoder whose last token says what each thing of a caption is, and how the first lies to the second."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    text_encoder = new_text_encoder(tokenizer).train()
    head = nn.Linear(WIDTH, sum(ANSWERS))
    optimizer = torch.optim.AdamW([*text_encoder.parameters(), *head.parameters()], lr=1e-3)
    for indices in track(batches(len(world), 64, steps, seed), "reader", steps):
        captions = [world.captions[i] for i in indices.tolist()]
        ids = tokenize(tokenizer, [grammar.say(caption, rng) for caption in captions])
        told = head(text_encoder(ids).pooler_output).split(ANSWERS, dim=1)
        right = torch.tensor([answers(caption) for caption in captions]).unbind(1)
        loss = torch.stack([F.cross_entropy(a, r) for a, r in zip(told, right, strict=True)]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return text_encoder


def answers(caption: Caption) -> list[int]:
    """Colour and shape of up to three things and the relation, 0 where there is none."""
    things = [[list(COLORS).index(k.color) + 1, list(SHAPES).index(k.shape) + 1] for k in caption.kinds]
    things += [[0, 0]] * (3 - len(things))
    relation = list(RELATIONS).index(caption.relation) + 1 if caption.relation else 0
    return [*(answer for thing in things for answer in thing), relation]


def pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:
    """The parts as a Stable Diffusion pipeline."""
    return StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids `[B, LENGTH]`."""
    ids: torch.Tensor = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids
    return ids


def _words(claim: Caption, rng: random.Random) -> str:
    return "" if rng.random() < 0.1 else grammar.say(claim, rng)


def sample(
    pipeline: StableDiffusionPipeline, texts: list[str], steps: int, guidance_scale: float, generator: torch.Generator
) -> Tensor:
    """Scaled latents `[B, 8, 8, 8]` for texts."""
    pipeline.set_progress_bar_config(disable=True)
    latents: Tensor = pipeline(
        texts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generator,
        output_type="latent",
    ).images
    return latents
