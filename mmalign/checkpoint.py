"""Checkpoints: everything that an exact resume needs, written aside and then renamed.

checkpoints/step-000100/
  shared.pt        what all processes hold alike: weights, optimiser, plugin states; written by the main process
  rank-0.pt ...    what each process holds for itself: random streams
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmalign.errors import UserError

State = dict[str, Any]


def name(step: int) -> str:
    """The folder of a step: `step-000100`."""
    return f"step-{step:06d}"


def begin(root: Path, step: int) -> Path:
    """An empty folder beside the checkpoints, to be filled by every process and then given to `finish`."""
    partial = root / f".{name(step)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def write(partial: Path, file: str, state: Mapping[str, Any]) -> None:
    """Write one file of a checkpoint and see it on the disk."""
    with open(partial / file, "wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())


def finish(partial: Path, step: int) -> Path:
    """Rename the filled folder into place. From now on it counts."""
    final = partial.parent / name(step)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    return final


def found(root: Path) -> list[Path]:
    """The finished checkpoints under `root`, oldest first."""
    return sorted(root.glob("step-*"))


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep`."""
    for folder in found(root)[:-keep]:
        shutil.rmtree(folder)


def read(folder: Path, rank: int) -> tuple[State, State]:
    """The shared state and this process's own. Raises UserError when the run had another number of processes."""
    own = folder / f"rank-{rank}.pt"
    if not own.is_file():
        raise UserError(f"{folder} was written by fewer processes; resume with as many as the run had")
    shared: State = torch.load(folder / "shared.pt", map_location="cpu", weights_only=True)
    local: State = torch.load(own, map_location="cpu", weights_only=True)
    return shared, local
