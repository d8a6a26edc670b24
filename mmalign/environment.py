"""What a run was made with: versions, plugins, device, seed. Written to `environment.json`."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mmalign.run import Run

PACKAGES = ("mmalign", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch")


def write(run: "Run") -> None:
    """Write `environment.json` into the run folder."""
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(run.engine.device),
        "processes": run.engine.world,
        "threads": torch.get_num_threads(),
        "seed": run.config.trainer.seed,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "plugins": {p.source.name: f"{p.source.distribution} {p.source.version}" for p in run.chosen.plugins.loaded},
    }
    (run.folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
