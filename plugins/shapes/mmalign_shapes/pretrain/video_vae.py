"""The autoencoder of videos: nine frames of 64 x 64 to 5 x 8 x 8 latents of eight channels, cheap to decode."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from mmalign_shapes import moving
from mmalign_shapes.moving_captions import Movers
from mmalign_shapes.pretrain.data import batches, floats, track
from mmalign_shapes.pretrain.update import update

BATCH_SIZE = 8
CHANNELS = 8
PATCH = 4
"""Pixels of a patch's side that the autoencoder sees as channels, as Wan 2.2's does."""

SHAKY = 0.35
"""Share of the videos in which things tremble; by how many pixels, see `_TREMBLING`."""
_TREMBLING = (1.0, 2.5)
_OFF = 0.3
"""Standard deviation of the largest error in the latents, in theirs, that the decoder learns to overlook."""
_THINGS = 10.0
"""By how much more a pixel of a thing weighs than one of the background, of which there are about ten times as many."""
_CHUNK = 100


@dataclass(frozen=True)
class Videos:
    """Videos `[N, F, 3, 64, 64]` as bytes, and what each shows."""

    pixels: Tensor
    captions: list[Movers]

    def __len__(self) -> int:
        return len(self.captions)


def draw(size: int, seed: int, shaky: float = SHAKY) -> Iterator[Videos]:
    """`size` videos of one thing each, some at a time. shaky: share of them in which it trembles."""
    rng = random.Random(seed)
    for start in track(range(0, size, _CHUNK), "drawing videos", -(-size // _CHUNK)):
        captions: list[Movers] = [(mover,) for mover in rng.choices(moving.movers(), k=min(_CHUNK, size - start))]
        drawn = moving.pixels([_clip(caption, rng, shaky) for caption in captions])
        yield Videos((drawn * 255).round().to(torch.uint8), captions)


def joined(some: Iterable[Videos]) -> Videos:
    """All of them at once."""
    parts = list(some)
    return Videos(torch.cat([part.pixels for part in parts]), [one for part in parts for one in part.captions])


def new_vae() -> AutoencoderKLWan:
    """Untrained, four hundred thousand weights. After the first it joins two frames, not four as Wan's: shapes come sooner."""
    return AutoencoderKLWan(
        base_dim=24,
        z_dim=CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_spatial=2 * PATCH,
        scale_factor_temporal=2,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def train_vae(videos: Videos, steps: int, seed: int) -> AutoencoderKLWan:
    """Learn to draw cleanly what was encoded, from latents that are a little off as a generator's are, as for pictures.

    The mean and deviation of the latents go to the config, where Wan's pipeline looks for them.
    """
    torch.manual_seed(seed)
    vae = new_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    for indices in track(batches(len(videos), BATCH_SIZE, steps, seed), "video autoencoder", steps):
        shown = _as_wan(videos.pixels[indices])
        posterior = vae.encode(shown).latent_dist
        latents = posterior.sample()
        off = _OFF * torch.rand(len(latents), 1, 1, 1, 1) * torch.randn_like(latents)
        made = vae.decode(latents + off * latents.std(dim=(0, 2, 3, 4), keepdim=True)).sample
        error = (made - shown).abs()
        loss = (weights(shown) * (error + 5 * error**2)).mean() + 1e-7 * posterior.kl().mean()
        update(loss, vae.parameters(), optimizer, schedule)
    vae.eval().requires_grad_(False)
    latents = encode(vae, videos.pixels[:512])
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return vae


def weights(shown: Tensor) -> Tensor:
    """What each pixel of videos `[B, 3, F, H, W]` in [-1, 1] weighs, `[B, 1, F, H, W]`, 1 on average.

    Evenly weighed, the background is learnt alone for the first thousand updates, since things cover so little.
    """
    background = shown.flatten(2).median(dim=-1).values[..., None, None, None]
    thing = (shown - background).abs().amax(dim=1, keepdim=True) > 0.3
    found = 1 + _THINGS * thing
    return found / found.mean()


@torch.no_grad()
def encode(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Standardised posterior means `[N, 8, 5, 8, 8]` of byte videos."""
    latents = torch.cat([vae.encode(_as_wan(chunk)).latent_dist.mean for chunk in pixels.split(32)])
    mean, std = _statistics(vae)
    return (latents - mean) / std


def encoded(vae: AutoencoderKLWan, some: Iterable[Videos]) -> tuple[Tensor, list[Movers]]:
    """Latents of all videos and what they show; the videos themselves are not kept."""
    pairs = [(encode(vae, part.pixels), part.captions) for part in some]
    return torch.cat([latents for latents, _ in pairs]), [one for _, captions in pairs for one in captions]


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Videos `[B, F, 3, 64, 64]` in [0, 1], with gradient."""
    mean, std = _statistics(vae)
    shown: Tensor = vae.decode(latents * std + mean).sample
    return (shown / 2 + 0.5).transpose(1, 2)


def _clip(caption: Movers, rng: random.Random, shaky: float) -> moving.Clip:
    clip = moving.arrange(rng, caption)
    return moving.jittered(clip, rng, rng.uniform(*_TREMBLING)) if rng.random() < shaky else clip


def _as_wan(pixels: Tensor) -> Tensor:
    """`[B, 3, F, 64, 64]` in [-1, 1]."""
    return floats(pixels).transpose(1, 2) * 2 - 1


def _statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, `[8, 1, 1, 1]` each."""
    mean, std = (
        torch.tensor(given)[:, None, None, None] for given in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
