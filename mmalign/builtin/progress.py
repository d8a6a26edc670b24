"""Show how a run goes: what it is about to do, how far it is, what the evaluation says, where the results are."""

import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mmalign import console
from mmalign.builtin.files import step_name
from mmalign.console import say
from mmalign.hookspecs import hookimpl
from mmalign.words import duration, plus_minus, short

if TYPE_CHECKING:
    from mmalign.run import Run

LINES = 20
"""About how many lines a run says on a pipe, besides the first and the last."""

_shown: "WeakKeyDictionary[Run, Shown]" = WeakKeyDictionary()


@hookimpl(tryfirst=True)
def mmalign_run_start(run: "Run") -> None:
    """Say what is about to happen."""
    if run.is_main:
        for line in introduction(run):
            say(line)
        display = Bar(run.step, run.steps) if console.CONSOLE.is_terminal else Lines(run.step, run.steps)
        _shown[run] = Shown(display, Pace())


@hookimpl(tryfirst=True)
def mmalign_step_end(run: "Run", step: int, metrics: dict[str, float]) -> None:
    """Move on by one."""
    if run in _shown:
        shown = _shown[run]
        shown.pace.step()
        shown.display.step(step, f"{told(metrics)}  {shown.pace.told(run.steps - step)}")


@hookimpl(tryfirst=True)
def mmalign_evaluated(run: "Run", step: int, results: dict[str, dict[str, Any]]) -> None:
    """Say the means."""
    if run in _shown:
        _shown[run].pace.skip()
        for name, result in results.items():
            change = plus_minus(result["difference"], result["difference_se"], sign=True)
            since = f", {change} since step 0" if step or result["difference"] else ""
            say(f"step {step}: {name} ({result['role']}) {plus_minus(result['mean'], result['se'])}{since}")


@hookimpl(wrapper=True, tryfirst=True)
def mmalign_run_end(run: "Run", error: BaseException | None) -> Generator[None, Any, Any]:
    """When everybody else is done: say where the results are, or how to go on."""
    try:
        answers = yield
    finally:
        shown = _shown.pop(run, None)
        if shown is not None:
            shown.display.close()
    if shown is not None:
        for line in ending(run, error, time.perf_counter() - shown.pace.started):
            say(line)
    return answers


def introduction(run: "Run") -> Iterator[str]:
    """The run in six lines."""
    config, trainer = run.config, run.config.trainer
    sizes = [(p.numel(), p.requires_grad) for p in run.parts.policy.network.parameters()]
    world, accumulation = run.engine.world, trainer.gradient_accumulation
    effective = trainer.batch_size * accumulation * world
    rows, taken = len(run.feed.rows), run.feed.rows_per_batch * accumulation * run.steps
    resumed = f", going on after step {run.step}" if run.step else ""
    yield f"{config.name}: {config.objective.type} on {config.model.type}, into {run.folder}"
    yield f"  trains   {sum(n for n, trains in sizes if trains):,} of {sum(n for n, _ in sizes):,} parameters"
    yield f"  batch    {effective} = {trainer.batch_size} rows x {accumulation} accumulated x {world} processes"
    yield f"  rate     {trainer.learning_rate:g} ({trainer.optimizer}, {trainer.warmup_steps} warmup steps)"
    yield f"  data     {rows:,} rows, seen {taken / rows:.1f} times"
    yield f"  steps    {run.steps}{resumed}"


def ending(run: "Run", error: BaseException | None, seconds: float) -> Iterator[str]:
    """Where things are, or what to do now."""
    if error is not None:
        kept = sorted((run.folder / "checkpoints").glob("step-*"))
        remedy = f"go on from {kept[-1]} with --resume" if kept else "no checkpoint was written yet"
        yield f"{run.config.name} ended at step {run.step} of {run.steps}: {type(error).__name__}; {remedy}"
        return
    if run.stopped:
        yield f"stopped at step {run.step} of {run.steps}: {run.stopped}"
    yield f"{run.config.name}: step {run.step} after {duration(seconds)}"
    for name in ("model", "report.html", f"samples/{step_name(run.step)}"):
        if (run.folder / name).exists():
            yield f"  {name.partition('/')[0].partition('.')[0]:<8} {run.folder / name}"


def told(metrics: Mapping[str, float]) -> str:
    """What of an update fits on a line: the loss, then rewards and accuracy, or that it was skipped."""
    names = ["loss", *(n for n in metrics if n.startswith("reward") or n == "accuracy")][:4]
    words = [f"{name} {short(metrics[name])}" for name in names if name in metrics and math.isfinite(metrics[name])]
    return "  ".join([*words, *(["skipped: not finite"] if metrics.get("skipped") else [])])


class Pace:
    """How long a step takes, evaluations left out. started: when the run began."""

    def __init__(self) -> None:
        self.started = self._mark = time.perf_counter()
        self._seconds = 0.0
        self._steps = 0

    def step(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        self._seconds, self._steps, self._mark = self._seconds + now - self._mark, self._steps + 1, now

    def skip(self) -> None:
        """The time since the last step was something else's."""
        self._mark = time.perf_counter()

    def told(self, left: int) -> str:
        """`0.52 s/step  25 s left`, for so many steps that are left."""
        each = self._seconds / self._steps
        return f"{duration(each)}/step  {duration(each * left)} left"


class Bar:
    """A bar on a terminal. What else is said or drawn meanwhile goes above it or below it."""

    def __init__(self, done: int, steps: int):
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=console.CONSOLE)
        self._task = self._progress.add_task("step", total=steps, completed=done, text="")

    def step(self, step: int, text: str) -> None:
        """Draw `step` updates as done."""
        self._progress.start()
        self._progress.update(self._task, completed=step, text=text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


class Lines:
    """About `LINES` plain lines, and always the first step and the last."""

    def __init__(self, done: int, steps: int):
        self._first, self._steps = done + 1, steps
        self._every = max(1, math.ceil((steps - done) / LINES))

    def step(self, step: int, text: str) -> None:
        """Say the step if it is one of those."""
        if step in (self._first, self._steps) or step % self._every == 0:
            say(f"step {step}/{self._steps}  {text}")

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Shown:
    """What is shown of one run."""

    display: Bar | Lines
    pace: Pace
