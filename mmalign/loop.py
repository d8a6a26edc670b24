"""The loop: batch, terms, loss, step. It knows no modality, no objective and no reward."""

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mmalign.run import Run


def train(run: "Run") -> None:
    """Update until the last step, or until somebody says stop."""
    while run.step < run.steps:
        metrics = update(run)
        run.step += 1
        run.hook.mmalign_step_end(run=run, step=run.step, metrics=metrics)
        run.stopped = run.hook.mmalign_should_stop(run=run, step=run.step, metrics=metrics)
        if run.stopped:
            break


def update(run: "Run") -> dict[str, float]:
    """One optimiser step over `gradient_accumulation` micro-batches. Returns its metrics, averaged over processes."""
    engine, parts, micro_batches = run.engine, run.parts, run.config.trainer.gradient_accumulation
    metrics = Means()
    for i in range(micro_batches):
        batch = next(run.feed)
        with engine.accumulate(last=i == micro_batches - 1):
            with engine.autocast():
                terms = parts.objective.terms(parts, batch, run.stream("draws"))
                loss = parts.objective.loss(**terms)
            value = loss.values.mean()
            engine.backward(value / micro_batches)
        metrics.add({"loss": value, **loss.metrics})
    metrics.add(run.feed.drain())
    if parts.reward is not None:
        metrics.add(parts.reward.drain())
    means = metrics.drain()
    finite, own = engine.step(means.pop("loss"))
    return {**own, **engine.mean(means), "skipped": float(not finite)}


class Means:
    """Averages of scalars over the micro-batches of an update."""

    def __init__(self) -> None:
        self._values: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        """Remember one micro-batch's scalars."""
        for name, value in metrics.items():
            self._values[name].append(value.detach())

    def drain(self) -> dict[str, torch.Tensor]:
        """The mean of each."""
        means = {name: torch.stack(values).mean() for name, values in self._values.items()}
        self._values.clear()
        return means
