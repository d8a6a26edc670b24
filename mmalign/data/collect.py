"""Rows that the model makes itself: sample every prompt several times, score, and keep pairs, the best, or all.

The rows lie in a folder of the run, samples beside a manifest that is written last; a finished collection is never made
again.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmalign.config import Collect
from mmalign.console import track, warn
from mmalign.data.sources import Pairs, ScoredRows
from mmalign.errors import BadRow, UserError
from mmalign.maths.agreement import kendall
from mmalign.parts import Row, Source
from mmalign.records import Prompt, Samples, Scores

if TYPE_CHECKING:
    from mmalign.run import Run


class OwnPairs(Pairs):
    """Collected pairs, whose prompts are those of the run's data: whole, with pictures and metadata.

    path: the manifest. data: the rows that were sampled.
    """

    def __init__(self, path: str, data: Source):
        super().__init__(path)
        self._data = data

    def __getitem__(self, index: int) -> Row:
        own = self._table[self._rows[index]]
        known = {"consistency": own["consistency"]} if "consistency" in own else {}
        return {**super().__getitem__(index), **known, "prompt": self._data[own["row"]]["prompt"]}


class OwnSamples(ScoredRows):
    """Collected samples with their scores, whose prompts are those of the run's data.

    path: the manifest. data: the rows that were sampled.
    """

    def __init__(self, path: str, data: Source):
        super().__init__(path)
        self._data = data

    def __getitem__(self, index: int) -> Row:
        return {**super().__getitem__(index), "prompt": self._data[self._table[index]["row"]]["prompt"]}


Asked = tuple[int, Prompt]
"""A prompt and which row of the data it is."""

Kept = tuple[dict[str, int], dict[str, Any]]
"""What a row is made of: the columns that hold samples, by their index, and the other columns."""


def best_against_worst(scores: Tensor, options: Collect) -> list[Kept]:
    """Pairs among samples of these scores `[N]`, with both scores."""
    pairs = ranked(scores, options.least_gap)[: 1 if options.pairing == "best-worst" else None]
    return [({"chosen": a, "rejected": b}, {"scores": [float(scores[a]), float(scores[b])]}) for a, b in pairs]


def best(scores: Tensor, options: Collect) -> list[Kept]:
    """The sample of the highest score, the first one of several."""
    return [({"sample": i}, {"score": float(scores[i])}) for i in _good(scores, options)[:1]]


def everything(scores: Tensor, options: Collect) -> list[Kept]:
    """Every sample that has a score, and the scores of all of them as its rivals."""
    rivals = [float(scores[i]) for i in sorted(_known(scores))]
    good = sorted(_good(scores, options))
    return [({"sample": i}, {"score": float(scores[i]), "rivals": rivals}) for i in good]


@dataclass(frozen=True)
class Keeping:
    """How a collection is kept: the name of its folder, what reads its manifest, which rows a prompt's scores make."""

    folder: str
    source: Callable[[str, Source], Source]
    rows: Callable[[Tensor, Collect], list[Kept]]


KEEPING = {
    "pairs": Keeping("pairs", OwnPairs, best_against_worst),
    "best": Keeping("best", OwnSamples, best),
    "all": Keeping("scored", OwnSamples, everything),
}


def collect(run: "Run", options: Collect, data: Source, *, skip_bad: bool = False) -> Source:
    """The run's own rows, made now unless they are there. Raises UserError when nothing of any prompt can be kept.

    data: the run's rows, whose prompts are sampled. skip_bad: a bad one is left out, and counted; else it is raised.
    """
    keeping = KEEPING[options.keep]
    folder = run.folder / keeping.folder
    manifest = folder / f"{keeping.folder}.jsonl"
    if run.is_main and not manifest.is_file():
        folder.mkdir(exist_ok=True)
        _write(manifest, _collected(run, options, _prompts(run, data, skip_bad), folder))
    run.engine.wait()
    return keeping.source(str(manifest), run.parts.data)


def ranked(scores: Tensor, least_gap: float = 0.0) -> list[tuple[int, int]]:
    """Indices of winner and loser among `[N]` scores: the best with the worst, the second best with the second worst, and so
    on as long as the one is higher, by `least_gap` or more. One that is not finite counts as no score.
    """
    known = _known(scores)
    return [
        (a, b)
        for a, b in zip(known, reversed(known), strict=True)
        if scores[a] > scores[b] and scores[a] - scores[b] >= least_gap
    ]


def _known(scores: Tensor) -> list[int]:
    """Indices of the scores that are finite, the highest first."""
    order = scores.argsort(descending=True, stable=True)
    known: list[int] = order[scores[order].isfinite()].tolist()
    return known


def _good(scores: Tensor, options: Collect) -> list[int]:
    """The known ones that score enough, the highest first."""
    return [i for i in _known(scores) if options.least_score is None or scores[i] >= options.least_score]


def _prompts(run: "Run", data: Source, skip_bad: bool) -> list[Asked]:
    """The prompts of all rows, or of the good ones; says how many are bad."""
    prompts, skipped = list[Asked](), list[str]()
    for i in range(len(data)):
        try:
            prompts.append((i, data[i]["prompt"]))
        except BadRow as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    if not prompts:
        raise UserError(f"collect: every row is bad, for example {skipped[0]}")
    if skipped:
        warn(run, f"collect: {len(skipped)} bad rows were left out, for example {skipped[0]}")
    return prompts


def _collected(run: "Run", options: Collect, prompts: Sequence[Asked], folder: Path) -> list[dict[str, Any]]:
    """The rows of the manifest; says how many prompts gave none."""
    at_once = max(1, run.config.evaluation.batch_size // options.samples_per_prompt)
    starts = track(range(0, len(prompts), at_once), "collecting samples")
    rows = [row for i in starts for row in _rows_of(run, prompts[i : i + at_once], options, folder)]
    if not rows:
        raise UserError(
            "collect: all samples of every prompt tie, differ by less than collect.least_gap, score less than "
            "collect.least_score or have no score, so there is nothing to learn; take more samples or another reward"
        )
    if left_out := len(prompts) - len({row["row"] for row in rows}):
        run.warn(
            f"collected {len(rows)} rows; the samples of {left_out} prompts tie, nearly tie, score too low or have "
            "no score: these are left out"
        )
    return rows


def _rows_of(run: "Run", prompts: Sequence[Asked], options: Collect, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of some prompts."""
    count = options.samples_per_prompt
    repeated = [prompt for _, prompt in prompts for _ in range(count)]
    first = run.config.trainer.seed * len(run.parts.data)
    seeds = [(first + row) * count + i for row, _ in prompts for i in range(count)]
    samples = run.parts.policy.sample(repeated, seeds)
    scores = run.parts.reward(samples)
    for i, (row, prompt) in enumerate(prompts):
        own = slice(i * count, (i + 1) * count)
        if kept := KEEPING[options.keep].rows(scores.values[own], options):
            paths = _written(run, samples[own], folder / f"{row:05d}")
            agreed = _agreed(scores, own, options)
            for columns, others in kept:
                media = {name: str(paths[index].relative_to(folder)) for name, index in columns.items()}
                yield {"row": row, "prompt": prompt.text, **media, **others, **agreed}
    run.parts.reward.drain()


def _agreed(scores: Scores, own: slice, options: Collect) -> dict[str, float]:
    """How consistent the ranking of a prompt's samples is with that by one of the rewards: 1 the same, 0 the reverse."""
    if options.consistency is None:
        return {}
    total, other = scores.values[own], scores.dimensions[options.consistency][own].to(scores.values)
    known = total.isfinite() & other.isfinite()
    return {"consistency": (float(kendall(total[known], other[known])) + 1) / 2}


def _written(run: "Run", samples: Samples, folder: Path) -> Sequence[Path]:
    """The samples of one prompt as files in `folder`."""
    folder.mkdir(exist_ok=True)
    paths: Sequence[Path] | None = run.hook.mmalign_write_samples(samples=samples, folder=folder)
    if paths is None:
        raise UserError("collect: no installed plugin can write this model's samples")
    return paths


def _write(manifest: Path, rows: Sequence[dict[str, Any]]) -> None:
    partial = manifest.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, manifest)
