"""The objective's own loss and metrics on rows that are not trained on: before, during and after training.

held_out.jsonl       one line each time: step, loss and metrics
evaluation.json      before against after, as {"held_out": {"n", "step", "metrics": {NAME: {"before", "after"}}}}
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mmalign.builtin.files import add, read_rows
from mmalign.builtin.trackers import Lines
from mmalign.console import say
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.parts import Parts
    from mmalign.run import Run

_open: "WeakKeyDictionary[Run, Log]" = WeakKeyDictionary()


def measure(parts: "Parts", batch_size: int, seed: int) -> dict[str, float]:
    """Loss and metrics of all held-out rows at once, as of one batch, so that they are exact also where no mean of batches is.

    batch_size: rows that go through the model together. seed: of what is random in it, the same each time.
    """
    import torch  # here, so that listing plugins does not wait for it

    from mmalign.feeds import batch_of
    from mmalign.processes.policy import evaluating

    rows, rng = parts.held_out, torch.Generator().manual_seed(seed)
    assert rows is not None
    with torch.no_grad(), evaluating(parts.policy.network):
        batches = ([rows[i] for i in some] for some in _pieces(len(rows), batch_size))
        terms = _joined([parts.objective.terms(parts, batch_of(batch), rng) for batch in batches])
        loss = parts.objective.loss(**terms)
    return {"loss": loss.values.mean().item(), **{name: value.item() for name, value in loss.metrics.items()}}


@hookimpl(trylast=True)
def mmalign_run_start(run: "Run") -> None:
    """Open the file; measure before the first step."""
    if run.parts.held_out is not None:
        _open[run] = Log(run)
        if run.step == 0:
            _open[run].measure(0)


@hookimpl
def mmalign_step_end(run: "Run", step: int) -> None:
    """Every `evaluation.every` steps, and after the last."""
    every = run.config.evaluation.every
    if run in _open and (step == run.steps or (every and step % every == 0)):
        _open[run].measure(step)


@hookimpl
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """A run that was stopped early is measured where it stopped."""
    log = _open.pop(run, None)
    if log is not None:
        if error is None and log.step != run.step:
            log.measure(run.step)
        log.close()
        if error is None:
            log.compare()


class Log:
    """The open file of one run. step: the last one measured."""

    def __init__(self, run: "Run"):
        self.run = run
        self.step = run.step
        self.lines = run.keep("held_out.jsonl", Lines(run.folder / "held_out.jsonl"))
        if run.is_main:
            self.lines.open()

    def measure(self, step: int) -> None:
        """Measure on every process, write and say it on the main one. Training does not notice."""
        from mmalign.builtin.evaluation import own_random

        evaluation = self.run.config.evaluation
        with own_random(evaluation.seed):
            metrics = measure(self.run.parts, evaluation.batch_size, evaluation.seed)
        self.step = step
        if self.run.is_main:
            self.lines.append({"step": step, **metrics})
            say(f"held-out rows at step {step}: {worded(metrics)}")

    def close(self) -> None:
        """Close the file, on the process that has it open."""
        if self.run.is_main:
            self.lines.close()

    def compare(self) -> None:
        """Put the first line and the last into `evaluation.json`."""
        rows = read_rows(self.run.folder / "held_out.jsonl")
        if self.run.is_main and rows:
            n = len(self.run.parts.held_out or ())
            compared = {"n": n, "step": rows[-1]["step"], "metrics": before_and_after(rows)}
            add(self.run.folder / "evaluation.json", held_out=compared)


def before_and_after(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By metric its value in the first and in the last of the lines; None where no row could tell."""
    return {name: {"before": rows[0].get(name), "after": after} for name, after in rows[-1].items() if name != "step"}


def worded(metrics: Mapping[str, float]) -> str:
    """`loss 0.693, accuracy 0.5`."""
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _pieces(count: int, size: int) -> list[range]:
    """Indices, `size` at a time; one that would be left alone joins those before it, for objectives may compare rows."""
    starts = [*range(0, count, size)]
    if size > 1 and len(starts) > 1 and count % size == 1:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]


def _joined(terms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of a loss for several batches as for one: tensors one after the other, what else there is of the first.

    Rows of which some are longer (`rivals`) end in -inf, as they do within a batch.
    """
    import torch
    from torch.nn.functional import pad

    def joined(values: Sequence[Any]) -> Any:
        if not isinstance(values[0], torch.Tensor) or values[0].ndim == 0:
            return values[0]
        if len({one.shape[1:] for one in values}) > 1:
            width = max(one.shape[1] for one in values)
            values = [pad(one, (0, width - one.shape[1]), value=-torch.inf) for one in values]
        return torch.cat(list(values))

    return {name: joined([one[name] for one in terms]) for name in terms[0]}
