"""The adapter: what every family must do, proven on tiny pipelines of the same classes as the real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmalign.maths.transitions import ODE
from mmalign.samplers.guidance import classifier_free
from mmalign.samplers.walk import end, noisy_steps, walk
from mmalign_video import tiny
from mmalign_video.models import VideoModel

from .conftest import FAMILIES, TEXTS, latents

Adapted = Callable[[str], VideoModel]
Folder = Callable[[str], Path]
families = pytest.mark.parametrize("family", FAMILIES)
STEPS, SCALE = 4, 3.0


@families
@torch.no_grad()
def test_sampling_gives_what_the_pipeline_itself_gives(family: str, adapted: Adapted) -> None:
    """Our steps along the path, with conditions, guidance, layout, time scale and shift, are those of diffusers."""
    model = adapted(family)
    start = latents(model)
    ours = sampled(model, start)
    torch.testing.assert_close(ours, run_pipeline(model, start, "latent"), atol=1e-5, rtol=1e-5)
    assert (ours - start).abs().mean() > 0.1
    videos = run_pipeline(model, start, "pt")
    assert videos.shape == (2, tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE)
    torch.testing.assert_close(model.decode(ours), videos, atol=1e-5, rtol=1e-5)


def sampled(model: VideoModel, x: Tensor) -> Tensor:
    """Our sampler along the model's path, guided."""
    denoise = classifier_free(model.predict, model.condition(TEXTS), model.unconditional(len(x)), SCALE)
    grid = model.path.grid(STEPS)
    noisy = noisy_steps(model.path, grid, ODE).expand(len(x), -1)
    return end(walk(denoise, model.path, x, grid, noisy))


def run_pipeline(model: VideoModel, x: Tensor, output: str) -> Tensor:
    """The pipeline's own call on the same weights and the same noise."""
    pipe, scale = model.pipe, model.family.embedded_guidance if model.unconditional(1) is None else SCALE
    size = {"height": tiny.SIDE, "width": tiny.SIDE, "num_frames": tiny.FRAMES}
    packed = hasattr(pipe, "_pack_latents")
    latents = pipe._pack_latents(x) if packed else x
    call = {"num_inference_steps": STEPS, "guidance_scale": scale, "latents": latents, "output_type": output}
    frames: Tensor = pipe(list(TEXTS), **size, **call).frames
    return pipe._unpack_latents(frames, *model.family.grid) if packed and output == "latent" else frames
