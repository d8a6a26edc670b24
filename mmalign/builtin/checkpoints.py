"""When to write checkpoints: every `trainer.checkpoint_every` steps and at the end; the newest few are kept."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from mmalign.builtin.files import step_name
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.run import Run


@hookimpl(wrapper=True)
def mmalign_step_end(run: "Run", step: int, metrics: dict[str, float]) -> Generator[None, Any, Any]:
    """Around all observers, so that what each of them keeps is from after this step, whoever comes last."""
    answers = yield
    every = run.config.trainer.checkpoint_every
    due = step == run.steps or (every is not None and step % every == 0)
    # After a skipped step there is nothing new to keep, and an older, sound checkpoint would be thrown away for it.
    if due and not metrics.get("skipped"):
        _write(run)
    return answers


@hookimpl(tryfirst=True)
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """A run that was stopped early ends in a checkpoint too; first of all, before the last evaluation."""
    if error is None and not (run.folder / "checkpoints" / step_name(run.step)).is_dir():
        _write(run)


def _write(run: "Run") -> None:
    from mmalign import checkpoint

    run.checkpoint()
    if run.is_main:
        checkpoint.prune(run.folder / "checkpoints", run.config.trainer.keep_checkpoints)
