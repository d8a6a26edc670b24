"""The autoencoder: 64 x 64 pictures to 8 x 8 x 8 latents of unit variance, cheap to decode."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from mmalign_shapes.pretrain.data import World, batches, floats, track


@dataclass(frozen=True)
class Phase:
    """Part of the training. mse: weight of the squared error beside the absolute one. kl: weight of the prior."""

    steps: int
    batch_size: int
    mse: float
    kl: float


PHASES = (Phase(1_000, 24, mse=0.0, kl=1e-5), Phase(1_200, 16, mse=5.0, kl=1e-7))
"""First the shapes under a strong prior, then the colours: squared error sees that green is not black."""

DECODER_STEPS = 600

_OFF = 0.25
"""Standard deviation of the largest error in the latents that the decoder learns to overlook."""


def new_vae() -> AutoencoderKL:
    """Untrained, about half a million weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_vae(world: World, seed: int) -> AutoencoderKL:
    """Learn to reconstruct in `PHASES`, standardise the latents, then make the decoder forgiving."""
    torch.manual_seed(seed)
    vae = new_vae()
    for number, phase in enumerate(PHASES):
        train_phase(vae, world, phase, seed + number)
    vae.eval().requires_grad_(False)
    standardised(vae, world.pictures[:1024])
    train_decoder(vae, world, DECODER_STEPS, seed + len(PHASES))
    return vae


def train_phase(vae: AutoencoderKL, world: World, phase: Phase, seed: int) -> None:
    """One phase, with a learning rate that rises and falls once."""
    torch.manual_seed(seed)
    vae.train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=phase.steps)
    turns = batches(len(world), phase.batch_size, phase.steps, seed)
    for indices in track(turns, "autoencoder", total=phase.steps):
        pictures = floats(world.pictures[indices]) * 2 - 1
        posterior = vae.encode(pictures).latent_dist
        made = vae.decode(posterior.sample()).sample
        loss = F.l1_loss(made, pictures) + phase.mse * F.mse_loss(made, pictures) + phase.kl * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def standardised(vae: AutoencoderKL, pictures: Tensor) -> AutoencoderKL:
    """Give each latent channel mean 0 and variance 1, inside the convolutions around the latents.

    A channel with a mean would shine through the noise at the last time and tell the generator too much.
    """
    latents = encode(vae, pictures, scale=1.0)
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std[:, None, None]
    vae.quant_conv.weight[:channels] /= std[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / std
    vae.quant_conv.bias[channels:] -= 2 * std.log()
    vae.register_to_config(scaling_factor=1.0)
    return vae


def train_decoder(vae: AutoencoderKL, world: World, steps: int, seed: int, batch_size: int = 16) -> None:
    """Learn to draw cleanly from latents that are a little off, as a generator's are. The encoder stays as it is."""
    torch.manual_seed(seed)
    weights = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for indices in track(batches(len(world), batch_size, steps, seed), "decoder", total=steps):
        latents = encode(vae, world.pictures[indices])
        off = _OFF * torch.rand(len(indices), 1, 1, 1) * torch.randn_like(latents)
        made = vae.decode((latents + off) / vae.config.scaling_factor).sample
        pictures = floats(world.pictures[indices]) * 2 - 1
        loss = F.l1_loss(made, pictures) + 5 * F.mse_loss(made, pictures)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    vae.requires_grad_(False)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, scale: float | None = None) -> Tensor:
    """Scaled posterior means `[N, 8, 8, 8]` of byte pictures."""
    factor = vae.config.scaling_factor if scale is None else scale
    return torch.cat([vae.encode(floats(chunk) * 2 - 1).latent_dist.mean * factor for chunk in pictures.split(64)])


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures `[B, 3, 64, 64]` in [0, 1], with gradient."""
    pixels: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1)
