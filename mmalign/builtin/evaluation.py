"""Evaluate before, during and after training: the same prompts and the same seeds, so that every score is paired.

    evaluation/step-000100.jsonl     prompt, seed, scores and counts of every sample; its presence means that the step is done
    samples/step-000100/             the first of them as files that people can open, and samples.jsonl
    evaluation.json                  before against after: {"rewards": {NAME: ...}, "metrics": {NAME: {NUMBER: ...}}}

A step that is done is never sampled again: a resumed run reads its scores. What the config's guidance leads where nothing is
trained goes by the name `guided` instead of `step-000000`, which are the untouched model's own samples.
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.builtin.comparison import Comparison
from mmalign.builtin.files import read_rows, step_name, to_json, write, write_rows
from mmalign.console import track, warn
from mmalign.errors import UserError
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.guidance import Lead
    from mmalign.parts import Counts, Judge, Metric, Policy
    from mmalign.records import Prompt, Samples
    from mmalign.run import Run

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    scores: by reward name, one score a prompt in their order; NaN where the reward had none.
    counts: by metric name, what was counted of each; None where it could not be measured.
    shown: the first samples, as many as were asked for; None for no sample.
    """

    scores: dict[str, list[float]]
    counts: "dict[str, list[Counts | None]]"
    shown: "Samples | None"


def evaluate(
    policy: "Policy",
    prompts: "Sequence[Prompt]",
    judges: "Mapping[str, Judge]",
    seeds: Sequence[int],
    batch_size: int,
    *,
    metrics: "Mapping[str, Metric] | None" = None,
    draw: "Lead | None" = None,
    keep: int = 0,
    show: Callable[[Sequence[int]], Iterator[int]] = iter,
) -> Outcome:
    """Sample every prompt once with its seed; every judge scores and every metric counts the same samples.

    batch_size: how many at once; it changes the speed, not the samples. draw: how; by default as the policy does by itself.
    keep: how many samples to give back. show: wraps the walk through the batches, for example in a progress bar.
    """
    import torch  # here, so that listing plugins does not wait for it

    from mmalign.guidance import Lead
    from mmalign.records import Samples

    scores: dict[str, list[float]] = {name: [] for name in judges}
    counts: dict[str, list[Counts | None]] = {name: [] for name in metrics or ()}
    kept: list[Samples] = []
    with torch.no_grad():
        for start in show(range(0, len(prompts), batch_size)):
            batch = slice(start, start + batch_size)
            samples = (draw or Lead())(policy, prompts[batch], seeds[batch])
            for name, judge in judges.items():
                scores[name] += judge.reward(samples).values.tolist()
            for name, metric in (metrics or {}).items():
                counts[name] += metric.counts(samples)
            kept += [samples[: keep - start]] if start < keep else []
    return Outcome(scores, counts, Samples.joined(kept) if kept else None)


@hookimpl(trylast=True)
def mmalign_run_start(run: "Run") -> None:
    """Before the first step, when everybody is ready to hear of it; a resumed run has done so before."""
    if not run.parts.evaluation_prompts:
        return
    before = _file(run, step_name(0))
    if before.is_file():
        _check_unchanged(run, before)
    if run.step == 0 or not before.is_file():
        _evaluate(run, 0, before=True)


@hookimpl
def mmalign_step_end(run: "Run", step: int) -> None:
    """Every `evaluation.every` steps."""
    if _due(run, step):
        _evaluate(run, step)


@hookimpl(tryfirst=True)
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """After training, wherever it stopped. By then the last checkpoint is written: a crash in here costs no step."""
    changed = run.step > 0 or run.parts.guidance is not None
    if error is None and run.parts.evaluation_prompts and changed and not _due(run, run.step):
        _evaluate(run, run.step)


def share(n: int, rank: int, world: int, first: int) -> slice:
    """Which of `n` prompts process `rank` of `world` evaluates; the main process has at least the `first` ones."""
    head = min(n, max(first, math.ceil(n / world)))
    if rank == 0:
        return slice(0, head)
    each = math.ceil((n - head) / (world - 1))
    start = min(n, head + (rank - 1) * each)
    return slice(start, min(n, start + each))


def _due(run: "Run", step: int) -> bool:
    """Whether it is time during training; the last step's evaluation comes after training."""
    every = run.config.evaluation.every
    return bool(run.parts.evaluation_prompts and every and step % every == 0 and step < run.steps)


def _evaluate(run: "Run", step: int, before: bool = False) -> None:
    """Measure unless that was done before; compare with what was `before`; tell every plugin."""
    name = step_name(step) if before or step else "guided"
    if not _file(run, name).is_file():
        with own_random(run.config.evaluation.seed):
            _measure(run, name, before)
    rows = (read_rows(_file(run, one)) for one in (step_name(0), name))
    compared = Comparison(run.parts.judges or {}, run.parts.metrics or {}, *rows)
    if run.is_main and not before:
        write(run.folder / "evaluation.json", to_json(compared.written(), indent=2) + "\n")
    run.hook.mmalign_evaluated(run=run, step=step, results=compared.results())


def _measure(run: "Run", name: str, before: bool) -> None:
    """Each process evaluates its share; the main process puts the shares together, last of all and at once."""
    engine, file = run.engine, _file(run, name)
    own = share(len(run.parts.evaluation_prompts), engine.rank, engine.world, run.config.evaluation.grid)
    # Before training the answer is that of the untouched model, also for a run that is resumed later than that.
    with _untouched(run) if before else nullcontext(), run.parts.policy.sampled(run.chosen.evaluation_sampling):
        rows = _measured(run, own, name, None if before else run.parts.guidance)
    write_rows(_part(file, engine.rank), rows)
    engine.wait()
    if run.is_main:
        parts = [_part(file, rank) for rank in range(engine.world)]
        write_rows(file, [row for part in parts for row in read_rows(part)])
        for part in parts:
            part.unlink()
    engine.wait()


def _measured(run: "Run", own: slice, name: str, draw: "Lead | None") -> Rows:
    """Sample and score the prompts of `own`; the main process also writes the first samples as files."""
    config = run.config.evaluation
    prompts = run.parts.evaluation_prompts[own]
    seeds = _seeds(run)[own]
    judges, metrics = run.parts.judges or {}, run.parts.metrics or {}

    def show(batches: Sequence[int]) -> Iterator[int]:
        return track(batches, f"evaluating step {run.step}") if run.is_main else iter(batches)

    keep = config.grid if run.is_main else 0
    how: dict[str, Any] = {"metrics": metrics, "draw": draw, "keep": keep, "show": show}
    outcome = evaluate(run.parts.policy, prompts, judges, seeds, config.batch_size, **how)
    for sentence in draw.warnings() if draw else ():
        warn(run, f"evaluation.guidance: {sentence}")
    rows = [_row(prompt, seed, outcome, i) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]
    if outcome.shown is not None:
        _write_samples(run, outcome.shown, rows, name)
    return rows


def _row(prompt: "Prompt", seed: int, outcome: Outcome, index: int) -> dict[str, Any]:
    """What the file of a step says of a sample."""
    scores = {name: scores[index] for name, scores in outcome.scores.items()}
    counts = {name: counts[index] for name, counts in outcome.counts.items()}
    return {"prompt": prompt.text, "seed": seed, "scores": scores, **({"counts": counts} if counts else {})}


def _write_samples(run: "Run", samples: "Samples", rows: Rows, name: str) -> None:
    """Files for people, by whichever plugin knows the medium, and a manifest that `mmalign score` reads."""
    folder = run.folder / "samples" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths: Sequence[Path] | None = run.hook.mmalign_write_samples(samples=samples, folder=folder)
    if paths is None:
        folder.rmdir()
        return
    named = zip(paths, rows[: len(samples)], strict=True)
    write_rows(folder / "samples.jsonl", [{**row, "sample": os.path.relpath(path, folder)} for path, row in named])


def _check_unchanged(run: "Run", before: Path) -> None:
    """Scores are paired with those of step 0, so its prompts and seeds must be today's."""
    now = [(prompt.text, seed) for prompt, seed in zip(run.parts.evaluation_prompts, _seeds(run), strict=True)]
    if [(row["prompt"], row["seed"]) for row in read_rows(before)] != now:
        raise UserError(
            f"evaluation.prompts or evaluation.seed differ from those of step 0 ({before}), so nothing can be "
            f"compared: put the prompts back, or start a new run"
        )


def _seeds(run: "Run") -> list[int]:
    return [run.config.evaluation.seed + i for i in range(len(run.parts.evaluation_prompts))]


def _file(run: "Run", name: str) -> Path:
    return run.folder / "evaluation" / f"{name}.jsonl"


def _part(file: Path, rank: int) -> Path:
    return file.with_name(f".{file.stem}.rank-{rank}.jsonl")


def _untouched(run: "Run") -> AbstractContextManager[None]:
    reference: AbstractContextManager[None] = run.parts.policy.reference()
    return reference


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Process-wide random numbers of its own, the same at every evaluation; training does not notice."""
    import numpy as np
    import torch

    from mmalign.streams import GlobalRandom

    training = GlobalRandom()
    state = training.state_dict()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        training.load_state_dict(state)
