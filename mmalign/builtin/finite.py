"""Count the updates that learned nothing: skipped, because loss or gradient was not finite, which five times in a row ends the
run; or without any gradient, because no sample was scored or none was better than another.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mmalign.console import warn
from mmalign.errors import RunFailure
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.run import Run

LIMIT = 5
"""Skipped updates in a row that end the run."""

_counts: "WeakKeyDictionary[Run, Count]" = WeakKeyDictionary()


@hookimpl
def mmalign_run_start(run: "Run") -> None:
    """Begin to count, or go on."""
    _counts[run] = run.keep("finite", Count())


@hookimpl
def mmalign_step_end(run: "Run", metrics: dict[str, float]) -> None:
    """Count; the decision comes later, when every observer has seen the step."""
    _counts[run].add(bool(metrics.get("skipped")), metrics.get("grad_norm") == 0)


@hookimpl
def mmalign_should_stop(run: "Run", step: int) -> None:
    """Raises RunFailure after `LIMIT` skipped updates in a row."""
    if _counts[run].in_a_row >= LIMIT:
        raise RunFailure(_message(run, step))


@hookimpl
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """Say once, for the report, how much was lost; and aloud if that is everything."""
    count = _counts.pop(run, None)
    if count is not None and count.total:
        run.warn(f"{count.total} of {run.step} updates were skipped: their loss or gradient was not finite")
    if count is not None and error is None and run.step and count.still == run.step:
        warn(run, _unmoved(run))


class Count:
    """Skipped updates, in all and without a good one between; and updates without gradient."""

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0
        self.still = 0

    def add(self, skipped: bool, still: bool = False) -> None:
        """Count one update."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.still += still

    def state_dict(self) -> dict[str, int]:
        """All counts."""
        return {"total": self.total, "in_a_row": self.in_a_row, "still": self.still}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from them."""
        self.total, self.in_a_row, self.still = state["total"], state["in_a_row"], state.get("still", 0)


def _message(run: "Run", step: int) -> str:
    kept = sorted((run.folder / "checkpoints").glob("step-*"))
    trainer = run.config.trainer
    lower = f"start anew with a lower trainer.learning_rate (it is {trainer.learning_rate:g})"
    return (
        f"step {step}: loss or gradient was not finite in {LIMIT} updates in a row, and each was skipped. "
        f"The last good checkpoint is {kept[-1] if kept else 'none: no step was kept yet'}. "
        f"To mend it, {lower}, and look in {run.folder / 'metrics.jsonl'} for a reward that turned null"
    )


def _unmoved(run: "Run") -> str:
    return (
        f"none of the {run.step} updates had a gradient, so the model is what it was. Where rewards are trained on, look in "
        f"{run.folder / 'metrics.jsonl'} whether they scored any sample (reward/mean is null where not) and whether the scores "
        "of a prompt ever differ"
    )
