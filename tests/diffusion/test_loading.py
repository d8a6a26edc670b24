"""Where models come from, what their schedulers mean, and what a user is told when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers import DPMSolverMultistepScheduler as DPMSolver
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from mmalign.errors import UserError
from mmalign_diffusion.models import DiffusersModel, Lora
from mmalign_diffusion.models.schedule import path_of

from .conftest import build

Folder = Callable[[str], Path]
SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.mark.parametrize("scheduler", [PNDMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_any_sampler_of_a_noise_schedule_is_ddim_over_it(scheduler, prediction, adapted) -> None:
    theirs = scheduler(**SD15, timestep_spacing="leading", prediction_type=prediction)
    path = path_of(theirs, adapted("sd").family)
    ddim = DDIMScheduler(**SD15, timestep_spacing="leading", set_alpha_to_one=False)
    ddim.set_timesteps(10)
    assert path.grid(10).tolist() == [*ddim.timesteps.tolist(), -1]
    assert path.prediction == {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(path.coefficients(t)[0].float().square(), ddim.alphas_cumprod[t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("to_one", [True, False])
def test_the_clean_end_is_the_scheduler_s(to_one: bool, adapted) -> None:
    path = path_of(DDIMScheduler(**SD15, set_alpha_to_one=to_one), adapted("sd").family)
    a, s = path.coefficients(torch.tensor([-1]))
    assert s.item() == pytest.approx(0.0 if to_one else 0.00085**0.5, rel=1e-3)
    assert a.item() ** 2 + s.item() ** 2 == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 7, 30, 61])
def test_trailing_times_never_fall_below_zero(steps: int, adapted) -> None:
    path = path_of(DDIMScheduler(**SD15, timestep_spacing="trailing"), adapted("sd").family)
    grid = path.grid(steps)
    assert len(grid) == steps + 1
    assert grid[0] == 999
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize(("sampler", "near"), [(UniPCMultistepScheduler, 1e-5), (DPMSolver, 5e-3)])
@pytest.mark.parametrize("steps", [1, 6, 25])
def test_a_flow_under_another_sampler_has_that_sampler_s_times(sampler, near: float, steps: int, adapted) -> None:
    """DPM++ begins just below pure noise, where no gradient of its own would be finite."""
    other = sampler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    other.set_timesteps(steps)
    found = path_of(sampler.from_config(other.config), adapted("sd3").family).grid(steps)
    torch.testing.assert_close(found, other.sigmas, atol=near, rtol=0)


def test_large_pictures_start_noisier_under_dynamic_shifting(folder: Folder) -> None:
    small, large = (build(folder("flux"), resolution=side) for side in (16, 64))
    assert (large.path.grid(6)[1:-1] > small.path.grid(6)[1:-1]).all()


def test_dynamic_shifting_is_the_pipeline_s(adapted) -> None:
    """SD3's tokens are patches of 2 x 2 latents, so 16 here."""
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(6, mu=calculate_shift(16))
    path = path_of(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), adapted("sd3").family)
    torch.testing.assert_close(path.grid(6), theirs.sigmas)


def test_more_steps_than_the_schedule_has(adapted) -> None:
    with pytest.raises(UserError, match="1001 is more than the 1000"):
        adapted("sd").path.grid(1001)


def test_a_scheduler_of_another_kind(adapted) -> None:
    with pytest.raises(UserError, match="EulerDiscreteScheduler"):
        path_of(EulerDiscreteScheduler(prediction_type="other"), adapted("sd").family)


def test_a_missing_folder() -> None:
    with pytest.raises(UserError, match=r"\./models/none: no such folder"):
        DiffusersModel("./models/none")


def test_a_folder_without_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: the folder holds no model_index.json"):
        DiffusersModel(str(tmp_path))


def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "sd.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"sd\.safetensors is a file"):
        DiffusersModel(str(tmp_path / "sd.safetensors"))


def test_a_hub_id_while_offline() -> None:
    with pytest.raises(
        UserError, match=r"nobody/nothing: no such folder here, and the hub does not give it \(offline"
    ) as caught:
        DiffusersModel("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert "check the id and the connection" in str(caught.value)


def test_a_pipeline_of_an_unknown_family(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(UserError, match=r"is a AudioLDMPipeline; the families known are StableDiffusionPipeline"):
        DiffusersModel(str(tmp_path))


def test_a_pipeline_with_a_part_missing(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder("sd"), tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "unet")
    with pytest.raises(UserError, match="sd cannot be loaded: "):
        DiffusersModel(str(tmp_path / "sd"))


def test_a_resolution_that_does_not_fit(folder: Folder) -> None:
    with pytest.raises(UserError, match="resolution: 18 is not a multiple of 4"):
        build(folder("flux"), resolution=18)


def test_an_adapter_that_finds_no_layer(folder: Folder) -> None:
    with pytest.raises(UserError, match=r"adapter: .*to_nowhere"):
        build(folder("sd"), adapter=Lora(target_modules=("to_nowhere",)))


def test_the_resolution_is_the_pipeline_s_own_unless_told(folder: Folder) -> None:
    model = DiffusersModel(str(folder("sd")))
    assert (model.family.resolution, model.latent_shape) == (16, (4, 8, 8))
    assert build(folder("sd"), resolution=24).latent_shape == (4, 12, 12)


def test_a_pipeline_inside_an_installed_package(folder: Folder, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("")
    shutil.copytree(folder("sd"), tmp_path / "carrier" / "assets" / "sd")
    monkeypatch.syspath_prepend(tmp_path)
    assert DiffusersModel("carrier:assets/sd").latent_shape == (4, 8, 8)
    with pytest.raises(UserError, match="pip install no-such-package"):
        DiffusersModel("no_such_package:assets/sd")


def test_options_and_hooks_are_read_without_heavy_imports() -> None:
    script = (
        "import sys, mmalign_diffusion.plugin\n"
        "assert not {'torch', 'diffusers', 'transformers', 'open_clip', 'PIL'} & set(sys.modules), 'plugin'\n"
        "import mmalign_diffusion.models\n"
        "import mmalign_diffusion.rewards.clip, mmalign_diffusion.rewards.aesthetic, mmalign_diffusion.rewards.jpeg\n"
        "assert not {'diffusers', 'transformers', 'open_clip', 'peft'} & set(sys.modules), 'options'\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
