"""Tiny pipelines and a tiny CLIP, saved once a session."""

import json
import os
from collections.abc import Callable
from pathlib import Path

# No test asks the hub for anything; diffusers and open_clip read this when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import open_clip
import pipelines
import pytest
import torch
from open_clip.factory import CLIP
from PIL import Image
from safetensors.torch import save_file

from mmalign_diffusion import tiny
from mmalign_diffusion.models import DiffusersModel, Lora

FAMILIES = ["sd", "sd-v", "sdxl", "sd3", "sd3-no-t5", "flux"]
RESOLUTION = 2 * tiny.SIDE


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, saved when first asked for."""
    return pipelines.saved(tiny.save, tmp_path_factory)


@pytest.fixture(scope="session")
def adapted(folder: Callable[[str], Path]) -> Callable[[str], DiffusersModel]:
    """A family's model with LoRA matrices that change its predictions. Tests leave it as they found it."""
    return pipelines.adapted(build, folder)


def build(path: Path, **options: object) -> DiffusersModel:
    """The model in `path` at the tiny resolution."""
    return DiffusersModel(str(path), **{"resolution": RESOLUTION, "adapter": Lora(rank=4, alpha=8), **options})


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model with random weights, as wide as ViT-L/14 at its end."""
    place = tmp_path_factory.mktemp("clip")
    settings = {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**settings)
        # Random towers see little of a picture: let them see more.
        for name, weight in model.visual.named_parameters():
            weight.data *= 3.0 if name.endswith("weight") and weight.ndim > 1 else 1.0
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    assert open_clip.create_model(f"local-dir:{place}", require_pretrained=True) is not None
    return place


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """40 x 24, the left half red, the right half blue."""
    picture = Image.new("RGB", (40, 24), "blue")
    picture.paste("red", (0, 0, 20, 24))
    picture.save(tmp_path / "halves.png")
    return tmp_path / "halves.png"
