"""What a run was made with: versions, plugins, device, seed. Written to `environment.json`."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mmalign.plugins import Plugins
    from mmalign.run import Run

PACKAGES = ("mmalign", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch")


def write(run: "Run") -> None:
    """Write `environment.json` into the run folder."""
    write_to(run.folder, run.chosen.plugins, run.engine.device, run.engine.world, run.config.trainer.seed)


def write_to(folder: Path, plugins: "Plugins", device: torch.device, processes: int, seed: int) -> None:
    """Write `environment.json` into a folder."""
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "plugins": {p.source.name: f"{p.source.distribution} {p.source.version}" for p in plugins.loaded},
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
