"""The autoencoder: 64 x 64 pictures to 8 x 8 x 8 latents of unit variance, cheap to decode."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from mmalign_shapes.pretrain.data import World, batches, floats, track
from mmalign_shapes.pretrain.update import update

BATCH_SIZE = 16

_OFF = 0.3
"""Standard deviation of the largest error in the latents, in theirs, that the decoder learns to overlook."""


def new_vae() -> AutoencoderKL:
    """Untrained, about a million weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 48, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )


def train_vae(world: World, steps: int, seed: int) -> AutoencoderKL:
    """Learn to draw cleanly what was encoded, from latents that are a little off as a generator's are; then standardise them.

    The squared error is there for the colours: without it green ends as black. The noise makes the encoder spread what
    matters over its channels, so that neighbouring latents show alike pictures.
    """
    torch.manual_seed(seed)
    vae = new_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for indices in track(batches(len(world), BATCH_SIZE, steps, seed), "autoencoder", steps):
        pictures = floats(world.pictures[indices]) * 2 - 1
        posterior = vae.encode(pictures).latent_dist
        latents = posterior.sample()
        off = _OFF * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(latents)
        made = vae.decode(latents + off * latents.std(dim=(0, 2, 3), keepdim=True)).sample
        loss = F.l1_loss(made, pictures) + 5 * F.mse_loss(made, pictures) + 1e-7 * posterior.kl().mean()
        update(loss, vae.parameters(), optimizer, schedule)
    return standardised(vae.eval().requires_grad_(False), world.pictures[:1024])


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


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, scale: float | None = None) -> Tensor:
    """Scaled posterior means `[N, 8, 8, 8]` of byte pictures."""
    factor = vae.config.scaling_factor if scale is None else scale
    return torch.cat([vae.encode(floats(chunk) * 2 - 1).latent_dist.mean * factor for chunk in pictures.split(64)])


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures `[B, 3, 64, 64]` in [0, 1], with gradient."""
    pixels: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1)
