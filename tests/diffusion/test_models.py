"""The adapter: what every family must do, proven on tiny pipelines of the same classes as the real ones."""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from pipelines import latents, perturbed
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.maths.transitions import ODE, Sde
from mmalign.samplers.guidance import Denoise, classifier_free
from mmalign.samplers.walk import Noise, end, noisy_steps, walk
from mmalign_diffusion.models import DiffusersModel, Lora

from .conftest import FAMILIES, RESOLUTION, build

TEXTS = ["a red circle", "two blue squares and a star"]
Adapted = Callable[[str], DiffusersModel]
Folder = Callable[[str], Path]
families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_predictions_are_float32_and_shaped_like_latents(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    condition = model.condition(TEXTS)
    assert {len(value) for value in condition.values()} == {2}
    assert not any(value.requires_grad for value in condition.values())
    output = model.predict(latents(model), model.path.grid(4)[1].expand(2), condition)
    assert output.shape == (2, *model.latent_shape)
    assert output.dtype == torch.float32


@families
@torch.no_grad()
def test_sampling_gives_what_the_pipeline_itself_gives(family: str, adapted: Adapted) -> None:
    """Our steps along the path, with conditions, guidance, time spacing and shift, are those of diffusers."""
    model, scale, steps = adapted(family), 3.0, 4
    start = latents(model)
    ours = guided(model, start, scale, steps)
    theirs = run_pipeline(model, start, scale, steps, "latent")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - start).abs().mean() > 0.1
    pictures = run_pipeline(model, start, scale, steps, "pt")
    torch.testing.assert_close(model.decode(ours), pictures, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_stochastic_sampling_gives_what_the_pipeline_itself_gives(adapted: Adapted) -> None:
    model = adapted("sd")
    start, ours, theirs = latents(model), torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    predict = classifier_free(model.predict, model.condition(TEXTS), None, 1.0)
    sampled = along(model, predict, start, 4, Sde(1.0), lambda draws: torch.randn(start.shape, generator=ours))
    call = {"num_inference_steps": 4, "guidance_scale": 1.0, "eta": 1.0, "generator": theirs, "output_type": "latent"}
    expected = model.pipe(list(TEXTS), latents=start, **call).images
    torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=1e-4)


@families
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    x, t = latents(model), model.path.grid(4)[[0, 2]]
    together = model.predict(x, t, model.condition(TEXTS))
    alone = [model.predict(x[i : i + 1], t[i : i + 1], model.condition(TEXTS[i : i + 1])) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@families
@torch.no_grad()
def test_the_reference_is_the_base_bitwise(family: str, adapted: Adapted, folder: Folder) -> None:
    model = adapted(family)
    base = getattr(DiffusionPipeline.from_pretrained(folder(family), **absent(family)), model.family.denoiser)
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    adapted_before = model.predict(*inputs)
    with model.reference():
        reference = model.predict(*inputs)
    assert torch.equal(reference, model.family.predict(base, *inputs))
    assert not torch.equal(reference, adapted_before)
    assert torch.equal(model.predict(*inputs), adapted_before)


def test_an_error_inside_the_reference_still_restores_the_policy(adapted: Adapted) -> None:
    model = adapted("sd")
    before = copy.deepcopy(model.state_dict()), {n: w.requires_grad for n, w in model.network.named_parameters()}
    with suppress(ZeroDivisionError), model.reference():
        raise ZeroDivisionError
    after = model.state_dict(), {n: w.requires_grad for n, w in model.network.named_parameters()}
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1] == after[1]
    assert any(after[1].values())


def test_a_visit_to_the_reference_between_forward_and_backward_leaves_the_gradient(adapted: Adapted) -> None:
    model = adapted("sd")
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)

    def gradients(visit: bool) -> list[Tensor]:
        model.network.zero_grad(set_to_none=True)
        loss = model.predict(*inputs).square().mean()
        if visit:
            with model.reference(), torch.no_grad():
                model.predict(*inputs)
        loss.backward()
        return [weight.grad for weight in model.weights.trainable().values() if weight.grad is not None]

    plain, visited = gradients(False), gradients(True)
    assert len(plain) == len(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(plain, visited, strict=True))
    model.network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
@torch.no_grad()
def test_a_saved_lora_loads_into_a_pipeline(family: str, adapted: Adapted, folder: Folder, tmp_path: Path) -> None:
    """alpha differs from the rank here, so the scale must travel with the weights."""
    model = adapted(family)
    model.save(tmp_path)
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()
    pipe = DiffusionPipeline.from_pretrained(folder(family))
    pipe.load_lora_weights(tmp_path)
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    reloaded = model.family.predict(getattr(pipe, model.family.denoiser), *inputs)
    torch.testing.assert_close(reloaded, model.predict(*inputs), atol=1e-6, rtol=1e-6)


def test_only_what_trains_is_state_and_it_restores_the_policy(folder: Folder, adapted: Adapted) -> None:
    model, fresh = adapted("sd"), build(folder("sd"))
    state = model.state_dict()
    assert all("lora" in name for name in state)
    assert set(state) == {name for name, weight in model.network.named_parameters() if weight.requires_grad}
    fresh.load_state_dict(state)
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    assert torch.equal(fresh.predict(*inputs), model.predict(*inputs))
    with pytest.raises(UserError, match="another model or adapter"):
        build(folder("sd"), adapter=Lora(rank=2)).load_state_dict(state)


def test_without_an_adapter_everything_in_the_denoiser_trains(folder: Folder, tmp_path: Path) -> None:
    model = build(folder("sd"), adapter=None)
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    base = model.predict(*inputs)
    perturbed(model)
    assert len(model.state_dict()) == len(list(model.network.parameters()))
    with model.reference():
        assert torch.equal(model.predict(*inputs), base)
        assert not model.predict(*inputs).requires_grad
    tuned = model.predict(*inputs)
    assert not torch.equal(tuned, base)
    model.save(tmp_path)
    assert torch.equal(build(tmp_path).predict(*inputs), tuned)


def test_encoders_and_vae_never_train(adapted: Adapted) -> None:
    pipe = adapted("sdxl").pipe
    for part in (pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert not part.training
        assert not any(weight.requires_grad for weight in part.parameters())


def test_half_precision_is_for_frozen_weights_only(folder: Folder) -> None:
    model = build(folder("sdxl"), dtype="bfloat16")
    trainable = set(model.state_dict())
    dtypes = {name in trainable: weight.dtype for name, weight in model.network.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert (model.pipe.text_encoder.dtype, model.pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    output = model.predict(latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS))
    assert output.dtype == torch.float32
    output.square().mean().backward()
    gradients = [weight.grad for weight in model.weights.trainable().values()]
    assert all(grad is not None and grad.dtype == torch.float32 and grad.isfinite().all() for grad in gradients)


def test_full_training_is_in_float32_beside_a_half_precision_reference(folder: Folder) -> None:
    model = build(folder("sd"), dtype="bfloat16", adapter=None)
    assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    with model.reference():
        assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16}
        reference = model.predict(*inputs)
    torch.testing.assert_close(reference, model.predict(*inputs), atol=0.05, rtol=0.05)


class Wrapper(nn.Module):
    """As engines wrap a network, for example for several GPUs."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.module(*args, **kwargs)


def test_a_wrapped_network_is_used_and_its_adapters_still_go_off(folder: Folder, adapted: Adapted) -> None:
    model = perturbed(build(folder("sd")))
    inputs = latents(model), model.path.grid(4)[1].expand(2), model.condition(TEXTS)
    plain = model.predict(*inputs)
    with model.reference():
        base = model.predict(*inputs)
    names = set(model.state_dict())
    model.network = wrapper = Wrapper(model.network)
    assert torch.equal(model.predict(*inputs), plain)
    with model.reference():
        assert torch.equal(model.predict(*inputs), base)
    assert wrapper.calls == 2
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_encode_scales_latents_as_the_denoiser_knows_them(family: str, adapted: Adapted) -> None:
    model = adapted(family)
    pixels = torch.rand(3, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0))
    encoded = model.encode(pixels).sample(torch.Generator().manual_seed(1))
    assert encoded.shape == (3, *model.latent_shape)
    settings = model.pipe.vae.config
    with torch.no_grad():
        posterior = model.pipe.vae.encode(2 * pixels - 1).latent_dist
    unscaled = encoded / settings.scaling_factor + (settings.shift_factor or 0)
    torch.testing.assert_close(unscaled, posterior.sample(torch.Generator().manual_seed(1)))
    again = model.encode(pixels).sample(torch.Generator().manual_seed(1))
    assert torch.equal(encoded, again)


def test_decode_gives_pixels_in_range_and_passes_gradient_on(adapted: Adapted) -> None:
    model = adapted("sd")
    leaf = latents(model).requires_grad_()
    pixels = model.decode(leaf)
    assert pixels.shape == (2, 3, RESOLUTION, RESOLUTION)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    pixels.mean().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0


@torch.no_grad()
def test_flux_is_told_the_guidance(folder: Folder) -> None:
    timid, bold = (build(folder("flux"), embedded_guidance=value) for value in (1.0, 7.0))
    x, t = latents(timid), timid.path.grid(4)[1].expand(2)
    assert not torch.allclose(timid.predict(x, t, timid.condition(TEXTS)), bold.predict(x, t, bold.condition(TEXTS)))
    assert timid.unconditional(2) is None


@torch.no_grad()
def test_sdxl_is_told_size_and_crop_and_empty_prompts_are_zeros(adapted: Adapted) -> None:
    model = adapted("sdxl")
    condition, empty = model.condition(TEXTS), model.unconditional(2)
    assert empty is not None
    sizes = [RESOLUTION, RESOLUTION, 0, 0, RESOLUTION, RESOLUTION]
    assert condition["time_ids"].tolist() == empty["time_ids"].tolist() == [sizes, sizes]
    assert not empty["prompt_embeds"].any()
    assert not empty["text_embeds"].any()


def absent(family: str) -> dict[str, None]:
    return {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3-no-t5" else {}


def guided(model: DiffusersModel, x: Tensor, scale: float, steps: int) -> Tensor:
    """Our sampler along the model's path, guided."""
    predict = classifier_free(model.predict, model.condition(TEXTS), model.unconditional(len(x)), scale)
    return along(model, predict, x, steps)


def along(
    model: DiffusersModel, denoise: Denoise, x: Tensor, steps: int, sde: Sde = ODE, noise: Noise | None = None
) -> Tensor:
    grid = model.path.grid(steps)
    noisy = noisy_steps(model.path, grid, sde).expand(len(x), -1)
    return end(walk(denoise, model.path, x, grid, noisy, sde, noise))


def run_pipeline(model: DiffusersModel, x: Tensor, scale: float, steps: int, output: str) -> Tensor:
    """The pipeline's own call on the same weights and the same noise."""
    pipe, flux = model.pipe, hasattr(model.pipe, "_pack_latents")
    guidance = model.family.embedded_guidance if flux else scale
    result = pipe(
        list(TEXTS),
        height=RESOLUTION,
        width=RESOLUTION,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=pipe._pack_latents(x, *x.shape) if flux else x,
        output_type=output,
    ).images
    packed = flux and output == "latent"
    images: Tensor = pipe._unpack_latents(result, RESOLUTION, RESOLUTION, pipe.vae_scale_factor) if packed else result
    return images
