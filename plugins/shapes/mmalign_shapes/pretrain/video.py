"""The generator of videos: a small Wan pipeline that draws cleanly and errs in colour, in direction and in smoothness.

A share of its captions names another colour or motion, and in a share of its videos things tremble whatever the caption says, so
it half knows what is wanted. Alignment is to repair just that.
"""

import random
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer, UMT5Config, UMT5EncoderModel

from mmalign_shapes import moving
from mmalign_shapes.moving import FRAMES, MOTIONS
from mmalign_shapes.moving_captions import Movers, captions, corrupted, say
from mmalign_shapes.pretrain.data import batches, track
from mmalign_shapes.pretrain.generator import Phase, new_tokenizer
from mmalign_shapes.pretrain.update import update
from mmalign_shapes.pretrain.video_vae import CHANNELS
from mmalign_shapes.scenes import COLORS, SHAPES, SIZE

WIDTH = 128
TEXT_WIDTH = 48
LENGTH = 16

BATCH_SIZE = 64
LEARNING_RATE = 1.5e-3
READING_STEPS = 400
SHIFT = 3.0
"""How much noisier the times are than evenly spread ones, as for Wan's small videos: t = SHIFT u / (1 + (SHIFT - 1) u)."""

PHASES = (
    Phase(1_300, 1_700, corruption=0.1),
    Phase(400, 400, corruption=0.45),
    Phase(3_000, 3_000, corruption=0.1),
    Phase(500, 500, corruption=0.45),
)
"""It learns to draw what a caption says, then to draw cleanly and to doubt, and both again at greater length: after the first two
phases things still changed their shape or colour within most videos."""

ANSWERS = [len(COLORS) + 1, len(SHAPES) + 1, len(MOTIONS) + 1] * 2
"""How many answers there are to each question of `answers`."""


def new_video_tokenizer() -> CLIPTokenizer:
    """Every word of the captions is one token and any other text still is some."""
    rng = random.Random(0)
    tokenizer = new_tokenizer([say((a, b), rng) for a in moving.movers() for b in moving.movers()[::7]])
    tokenizer.model_max_length = LENGTH
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> UMT5EncoderModel:
    """Untrained, two layers."""
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=TEXT_WIDTH // 4,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return UMT5EncoderModel(config)


def new_transformer() -> WanTransformer3DModel:
    """Untrained, four layers, about a million weights, for 80 tokens a video."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=WIDTH // 4,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=2 * WIDTH,
        num_layers=4,
        rope_max_seq_len=32,
    )


def answers(caption: Movers) -> list[int]:
    """Colour, shape and motion of up to two things, 0 where there is none."""
    names = (list(COLORS), list(SHAPES), list(MOTIONS))
    told = [(mover.kind.color, mover.kind.shape, mover.motion) for mover in caption]
    found = [known.index(word) + 1 for words in told for known, word in zip(names, words, strict=True)]
    return found + [0] * (len(ANSWERS) - len(found))


def train_reader(tokenizer: CLIPTokenizer, steps: int, seed: int) -> UMT5EncoderModel:
    """A text encoder whose last token says what each thing of a caption is and does."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    known = [captions("train", things) for things in (1, 2)]
    text_encoder, head = new_text_encoder(tokenizer).train(), nn.Linear(TEXT_WIDTH, sum(ANSWERS))
    optimizer = torch.optim.AdamW([*text_encoder.parameters(), *head.parameters()], lr=2e-3)
    for _ in track(range(steps), "reader of videos", steps):
        claims = [rng.choice(rng.choice(known)) for _ in range(BATCH_SIZE)]
        ids, mask = tokenize(tokenizer, [say(claim, rng) for claim in claims])
        states = text_encoder(ids, mask).last_hidden_state
        told = head(states[torch.arange(len(ids)), mask.sum(dim=1) - 1]).split(ANSWERS, dim=1)
        right = torch.tensor([answers(claim) for claim in claims]).unbind(1)
        loss = torch.stack([F.cross_entropy(a, r) for a, r in zip(told, right, strict=True)]).sum()
        update(loss, text_encoder.parameters(), optimizer)
    return text_encoder.eval().requires_grad_(False)


def train_transformer(
    text_encoder: UMT5EncoderModel,
    tokenizer: CLIPTokenizer,
    seen: tuple[Tensor, Sequence[Movers]],
    seed: int,
    phases: Sequence[Phase],
) -> WanTransformer3DModel:
    """Predict the velocity of noised latents `[N, 8, 5, 8, 8]` under what is said of them, in phases.

    seen: the latents, and what each shows.
    """
    latents, shown = seen
    torch.manual_seed(seed)
    rng = random.Random(seed)
    transformer = new_transformer()
    for number, phase in enumerate(phases):
        claims = [corrupted(one, rng) if rng.random() < phase.corruption else one for one in shown]
        _train(transformer, text_encoder, tokenizer, latents, claims, phase, seed + number)
    return transformer.eval()


def _train(
    transformer: WanTransformer3DModel,
    text_encoder: UMT5EncoderModel,
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    claims: Sequence[Movers],
    phase: Phase,
    seed: int,
) -> None:
    """One phase; a tenth of the captions is empty. Leaves averaged weights."""
    rng, weights = random.Random(seed), list(transformer.train().parameters())
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=phase.horizon, pct_start=0.1
    )
    average = EMAModel(weights, decay=0.995)
    for indices in track(batches(len(claims), BATCH_SIZE, phase.steps, seed), "video generator", phase.steps):
        clean, times = latents[indices], _times(BATCH_SIZE)
        noise = torch.randn_like(clean)
        told = embed(text_encoder, tokenizer, [_words(claims[i], rng) for i in indices.tolist()])
        t = times[:, None, None, None, None]
        predicted = transformer((1 - t) * clean + t * noise, 1000 * times, told, return_dict=False)[0]
        loss = F.mse_loss(predicted, noise - clean)
        update(loss, weights, optimizer, schedule)
        average.step(weights)
    average.copy_to(weights)


def pipeline(
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: CLIPTokenizer,
    transformer: WanTransformer3DModel,
) -> WanPipeline:
    """The parts as diffusers knows them."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    return WanPipeline(tokenizer, text_encoder, vae, scheduler, transformer)


def sample(
    pipe: WanPipeline, texts: Sequence[str], steps: int, guidance_scale: float, generator: torch.Generator
) -> Tensor:
    """Videos `[B, F, 3, 64, 64]` in [0, 1] for texts."""
    pipe.set_progress_bar_config(disable=True)
    made: Tensor = pipe(
        list(texts),
        height=SIZE,
        width=SIZE,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generator,
        max_sequence_length=LENGTH,
        output_type="pt",
    ).frames
    return made


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, `[B, LENGTH]` each."""
    told = tokenizer(list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return told.input_ids, told.attention_mask


@torch.no_grad()
def embed(text_encoder: UMT5EncoderModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """What the transformer is told `[B, LENGTH, 48]`, as Wan's pipeline does it: zero after the last token."""
    ids, mask = tokenize(tokenizer, texts)
    states: Tensor = text_encoder(ids, mask).last_hidden_state
    return states * mask[..., None]


def _times(size: int) -> Tensor:
    """`[B]`: random times between 0 and 1, mostly noisy ones."""
    even = torch.rand(size)
    return SHIFT * even / (1 + (SHIFT - 1) * even)


def _words(claim: Movers, rng: random.Random) -> str:
    return "" if rng.random() < 0.1 else say(claim, rng)
