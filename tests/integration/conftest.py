"""Real runs through the command line, on the shapes world, small enough for a coffee break between none of them."""

import os
from pathlib import Path

# No test asks the hub for anything; diffusers reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import command_line
import pytest
import torch

CONFIG = """
name: {name}
folder: {folder}
model: {{type: diffusers, path: "mmalign_shapes:assets/sd", adapter: {{rank: 4, dropout: 0.1}}}}
data: {{type: shapes-prompts, split: train, size: 16}}
objective: {{type: draft, k: 1}}
rewards: [{{type: clip-score, path: "mmalign_shapes:assets/clip"}}]
sampling: {{steps: 3, guidance_scale: 2.0}}
evaluation:
  prompts: {{type: shapes-prompts, split: held-out, size: 4}}
  rewards: [oracle, {{type: clip-score, path: "mmalign_shapes:assets/clip"}}]
trainer: {{steps: 6, batch_size: 2, learning_rate: 1.0e-3, checkpoint_every: 2}}
"""


@pytest.fixture
def config(tmp_path: Path):
    """Writes a small config and returns its path; further lines are added to it."""

    def write(name: str = "small", extra: str = "") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIG.format(name=name, folder=tmp_path / "runs") + extra, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def mmalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command line in a folder of its own: arguments -> returncode, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return command_line.here
