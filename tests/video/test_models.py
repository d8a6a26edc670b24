"""The adapter: what every family must do, proven on tiny pipelines of the same classes as the real ones."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pipelines import latents
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.transitions import ODE
from mmalign.samplers.guidance import classifier_free
from mmalign.samplers.walk import end, noisy_steps, walk
from mmalign_video import tiny
from mmalign_video.models import VideoModel
from mmalign_video.models.families import Size
from mmalign_video.models.families.cogvideox import CogVideoX

from .conftest import FAMILIES, TEXTS, build

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
    # Pixels of 0 to 1; the untrained decoder amplifies the last bits in which the latents differ.
    torch.testing.assert_close(model.decode(ours), videos, atol=1e-4, rtol=1e-4)


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


@families
@torch.no_grad()
def test_the_reference_is_the_base_bitwise(family: str, adapted: Adapted, folder: Folder) -> None:
    model, base = adapted(family), build(folder(family), adapter=None)
    inputs = latents(model), model.path.grid(STEPS)[1].expand(2), model.condition(TEXTS)
    ours = model.predict(*inputs)
    with model.reference():
        assert torch.equal(model.predict(*inputs), base.predict(*inputs))
    assert torch.equal(model.predict(*inputs), ours)
    assert not torch.equal(ours, base.predict(*inputs))


@families
@torch.no_grad()
def test_a_saved_lora_loads_into_a_pipeline(family: str, adapted: Adapted, folder: Folder, tmp_path: Path) -> None:
    """alpha differs from the rank here, so the scale must travel with the weights."""
    model = adapted(family)
    model.save(tmp_path)
    fresh = build(folder(family), adapter=None)
    fresh.pipe.load_lora_weights(tmp_path)
    if (tmp_path / "transformer_2").exists():
        fresh.pipe.load_lora_weights(tmp_path / "transformer_2", load_into_transformer_2=True)
    # One sample for each of the experts.
    inputs = latents(model), model.path.grid(STEPS)[[0, 3]], model.condition(TEXTS)
    torch.testing.assert_close(fresh.predict(*inputs), model.predict(*inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan-experts", "ltx"])
@torch.no_grad()
def test_an_earlier_lora_becomes_part_of_the_base(
    family: str, adapted: Adapted, folder: Folder, tmp_path: Path
) -> None:
    model = adapted(family)
    model.save(tmp_path)
    later = build(folder(family), lora=str(tmp_path))
    inputs = latents(model), model.path.grid(STEPS)[[0, 3]], model.condition(TEXTS)
    with later.reference():
        torch.testing.assert_close(later.predict(*inputs), model.predict(*inputs), atol=1e-5, rtol=1e-4)


@families
def test_encode_gives_latents_that_decode_knows(family: str, adapted: Adapted) -> None:
    """The posterior is the autoencoder's, and scaling there and back is the identity."""
    model = adapted(family)
    pixels = torch.rand(2, tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0))
    found = model.encode(pixels)
    assert found.std is not None
    with torch.no_grad():
        known = model.pipe.vae.encode(pixels.transpose(1, 2) * 2 - 1).latent_dist
    for scaled, expected in ((found.mean, known.mean), (found.mean + found.std, known.mean + known.std)):
        assert scaled.shape == (2, *model.latent_shape)
        back = model.family.unscale(scaled)
        torch.testing.assert_close(back, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.family.scale(back), scaled)


@torch.no_grad()
def test_each_sample_of_a_batch_goes_to_its_own_expert(adapted: Adapted) -> None:
    model = adapted("wan-experts")
    x, t, condition = latents(model), torch.tensor([0.5, 0.9]), model.condition(TEXTS)
    mixed = model.predict(x, t, condition)
    for i in range(2):
        alone = model.predict(x[i : i + 1], t[i : i + 1], {name: one[i : i + 1] for name, one in condition.items()})
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-5, rtol=1e-5)
    experts = model.network
    direct = [
        expert(x[i : i + 1], 1000 * t[i : i + 1], condition["prompt_embeds"][i : i + 1]).sample
        for i, expert in enumerate([experts.clean, experts.noisy])
    ]
    torch.testing.assert_close(mixed, torch.cat(direct), atol=1e-5, rtol=1e-5)


def test_half_precision_is_for_frozen_weights_only(folder: Folder) -> None:
    """diffusers keeps some of Wan's weights in float32, the first among them."""
    model = build(folder("wan"), dtype="bfloat16")
    assert all(weight.dtype == torch.float32 for weight in model.weights.trainable().values())
    assert (model.pipe.text_encoder.dtype, model.pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    output = model.predict(latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS))
    assert output.dtype == torch.float32
    output.square().mean().backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in model.weights.trainable().values()
    )


@pytest.mark.parametrize(
    ("family", "option", "message"),
    [
        ("wan", {"height": 20}, "model.height: 20 is not a multiple of 8, as this model needs: take 16 or 24"),
        ("wan", {"width": 3}, "model.width: 3 is not a multiple of 8, as this model needs: take 8 or 16"),
        ("wan", {"frames": 8}, "model.frames: 8 is not 1 more than a multiple of 4, as this model needs: take 5 or 9"),
        ("cogvideox", {"width": 36}, "model.width: 36 is not a multiple of 8"),
    ],
)
def test_a_size_that_does_not_fit_is_told_with_one_that_does(family, option, message, folder: Folder) -> None:
    with pytest.raises(UserError) as caught:
        build(folder(family), **option)
    assert str(caught.value).startswith(message)


def test_cogvideox_1_5_takes_two_latent_frames_together() -> None:
    family = CogVideoX(tiny.cogvideox(together=2), Size(frames=13))
    assert family.latent_shape == (4, 4, 8, 8)
    with pytest.raises(UserError, match=r"frames: 9 is not 5 more than a multiple of 8, .*: take 5 or 13"):
        CogVideoX(tiny.cogvideox(together=2), Size(frames=9))


def test_sizes_are_the_pipeline_s_own_unless_told(folder: Folder) -> None:
    assert VideoModel(str(folder("cogvideox"))).latent_shape == (3, 4, 8, 8)
    wan = VideoModel(str(folder("wan")))
    assert (wan.family.height, wan.family.width, wan.family.frames, wan.frame_rate) == (480, 832, 81, 16.0)


def test_a_pipeline_of_pictures_is_refused(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match=r"is a FluxPipeline; the families known are WanPipeline, .*LTXPipeline"):
        VideoModel(str(tmp_path))


def test_options_and_hooks_are_read_without_heavy_imports() -> None:
    script = (
        "import sys, mmalign_video.plugin\n"
        "assert not {'torch', 'diffusers', 'transformers', 'av', 'PIL'} & set(sys.modules), 'plugin'\n"
        "import mmalign_video.models\n"
        "assert not {'diffusers', 'transformers', 'peft'} & set(sys.modules), 'options'\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
