"""Write down every step: `metrics.jsonl`, `timing.jsonl` and TensorBoard.

`metrics.jsonl` holds no time of day, so a resumed run's file is byte for byte that of an uninterrupted one; seconds go
to `timing.jsonl`. Both are cut back to the checkpoint when a run is resumed.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mmalign.builtin.files import to_json
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.run import Run

_open: "WeakKeyDictionary[Run, Tracker]" = WeakKeyDictionary()


@hookimpl(tryfirst=True)
def mmalign_run_start(run: "Run") -> None:
    """Open the files; first of all, so that the first evaluation is written too."""
    if run.is_main:
        _open[run] = Tracker(run)


@hookimpl(tryfirst=True)
def mmalign_step_end(run: "Run", step: int, metrics: dict[str, float]) -> None:
    """Write one step; before evaluations and checkpoints, so that its time is its own."""
    if run in _open:
        _open[run].step(step, metrics)


@hookimpl(tryfirst=True)
def mmalign_evaluated(run: "Run", step: int, results: dict[str, dict[str, Any]]) -> None:
    """Write the means and how long the evaluation took."""
    if run in _open:
        _open[run].evaluated(step, results)


@hookimpl(trylast=True)
def mmalign_checkpoint(run: "Run") -> None:
    """The next step begins now."""
    if run in _open:
        _open[run].mark = time.perf_counter()


@hookimpl(trylast=True)
def mmalign_run_end(run: "Run") -> None:
    """Close the files."""
    if run in _open:
        _open.pop(run).close()


class Tracker:
    """The open files of one run. mark: when the work began that is being timed."""

    def __init__(self, run: "Run"):
        from torch.utils.tensorboard import SummaryWriter

        self._metrics = run.keep("metrics.jsonl", Lines(run.folder / "metrics.jsonl"))
        self._timing = run.keep("timing.jsonl", Lines(run.folder / "timing.jsonl"))
        self._metrics.open()
        self._timing.open()
        # A resumed run writes these steps again; TensorBoard then forgets the first time.
        self._board = SummaryWriter(run.folder / "tensorboard", purge_step=run.step + 1)
        self.mark = time.perf_counter()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an update's metrics and seconds."""
        self._metrics.append({"step": step, **dict(sorted(metrics.items()))})
        self._timing.append({"step": step, "seconds": self._lap()})
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def evaluated(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write an evaluation's means and seconds."""
        self._timing.append({"step": step, "evaluation_seconds": self._lap()})
        for name, result in results.items():
            self._board.add_scalar(f"evaluation/{name}", result["mean"], step)
        self._board.flush()

    def close(self) -> None:
        """Close all files."""
        self._metrics.close()
        self._timing.close()
        self._board.close()

    def _lap(self) -> float:
        """Seconds since the mark, which moves to now."""
        before, self.mark = self.mark, time.perf_counter()
        return self.mark - before


class Lines:
    """A file of JSON lines that can be cut back to where a checkpoint saw it."""

    def __init__(self, path: Path):
        self._path = path
        self._position = 0

    def open(self) -> None:
        """Open for more lines after the position that was restored; a new run begins with an empty file."""
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  closed in close()
        self._file.truncate(min(self._position, os.path.getsize(self._path)))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line, at once."""
        self._position += self._file.write((to_json(row) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def state_dict(self) -> dict[str, int]:
        """Bytes written; they are on the disk when this returns."""
        os.fsync(self._file.fileno())
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Where `open` shall go on."""
        self._position = state["position"]
