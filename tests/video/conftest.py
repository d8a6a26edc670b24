"""Tiny video pipelines, saved once a session."""

import os
import wave
from collections.abc import Callable
from pathlib import Path

# No test asks the hub for anything; diffusers reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pipelines
import pytest
import torch

from mmalign_video import tiny
from mmalign_video.models import Lora, VideoModel

FAMILIES = list(tiny.TINY)
TEXTS = ["a red circle moves up", "two blue squares and a star"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, saved when first asked for."""
    return pipelines.saved(tiny.save, tmp_path_factory)


@pytest.fixture(scope="session")
def adapted(folder: Callable[[str], Path]) -> Callable[[str], VideoModel]:
    """A family's model with LoRA matrices that change its predictions. Tests leave it as they found it."""
    return pipelines.adapted(build, folder)


def silent(path: Path) -> Path:
    """A file of sound alone, whatever it is called."""
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return path.with_suffix(".wav").rename(path)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A file called as videos are that holds no picture."""
    return silent(tmp_path / "voice.mp4")


def build(path: Path, **options: object) -> VideoModel:
    """The model in `path` at the tiny size."""
    size = {"height": tiny.SIDE, "width": tiny.SIDE, "frames": tiny.FRAMES}
    return VideoModel(str(path), **{**size, "adapter": Lora(rank=4, alpha=8), **options})
