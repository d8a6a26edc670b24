"""Pairs that the model makes itself: sample every prompt several times, score, pair better with worse.

The pairs lie in `pairs/` of the run folder, pictures beside a `pairs.jsonl` that is written last; a finished collection is
never made again.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmalign.config import Collect
from mmalign.console import track
from mmalign.data.sources import Pairs
from mmalign.errors import UserError
from mmalign.parts import Row, Source
from mmalign.records import Prompt, Samples

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
        asked = self._data[self._table[self._rows[index]]["row"]]
        return {**super().__getitem__(index), "prompt": asked["prompt"]}


def collect(run: "Run", options: Collect) -> Pairs:
    """The run's own pairs, made now unless they are there. Raises UserError when every prompt is tied."""
    folder = run.folder / "pairs"
    manifest = folder / "pairs.jsonl"
    if run.is_main and not manifest.is_file():
        folder.mkdir(exist_ok=True)
        _write(manifest, _collected(run, options, folder))
    run.engine.wait()
    return OwnPairs(str(manifest), run.parts.data)


def ranked(scores: Tensor) -> list[tuple[int, int]]:
    """Indices of winner and loser among `[N]` scores: the best with the worst, the second best with the second worst, and so
    on as long as the one is higher. A NaN counts as no score.
    """
    order = scores.argsort(descending=True, stable=True)
    known = order[~scores[order].isnan()].tolist()
    return [(a, b) for a, b in zip(known, reversed(known), strict=True) if scores[a] > scores[b]]


def _collected(run: "Run", options: Collect, folder: Path) -> list[dict[str, Any]]:
    """The rows of the manifest; says how many prompts gave none."""
    prompts = [run.parts.data[i]["prompt"] for i in range(len(run.parts.data))]
    at_once = max(1, run.config.evaluation.batch_size // options.samples_per_prompt)
    starts = track(range(0, len(prompts), at_once), "collecting pairs")
    rows = [row for i in starts for row in _pairs_of(run, prompts[i : i + at_once], i, options, folder)]
    if not rows:
        raise UserError(
            "collect: all samples of every prompt tie, so there is no pair; take more samples or another reward"
        )
    if tied := len(prompts) - len({Path(row["chosen"]).parent for row in rows}):
        run.warn(f"collected {len(rows)} pairs; the samples of {tied} prompts all tied, so these prompts are left out")
    return rows


def _pairs_of(
    run: "Run", prompts: Sequence[Prompt], first: int, options: Collect, folder: Path
) -> Iterator[dict[str, Any]]:
    """The pairs of some prompts, of which the first is the `first` of all."""
    count = options.samples_per_prompt
    repeated = [prompt for prompt in prompts for _ in range(count)]
    start = (run.config.trainer.seed * len(run.parts.data) + first) * count
    samples = run.parts.policy.sample(repeated, list(range(start, start + len(repeated))))
    scores = run.parts.reward(samples).values
    for i, prompt in enumerate(prompts):
        own = slice(i * count, (i + 1) * count)
        if pairs := ranked(scores[own])[: 1 if options.pairing == "best-worst" else None]:
            for row in _rows(run, samples[own], scores[own], pairs, prompt, folder / f"{first + i:05d}"):
                yield {"row": first + i, **row}
    run.parts.reward.drain()


def _rows(
    run: "Run", samples: Samples, scores: Tensor, pairs: Sequence[tuple[int, int]], prompt: Prompt, folder: Path
) -> Iterator[dict[str, Any]]:
    """Rows of the manifest for the samples of one prompt, which are written to `folder`."""
    folder.mkdir(exist_ok=True)
    paths = run.hook.mmalign_write_samples(samples=samples, folder=folder)
    if paths is None:
        raise UserError("collect: no installed plugin can write this model's samples")
    for best, worst in pairs:
        chosen, rejected = (str(paths[end].relative_to(folder.parent)) for end in (best, worst))
        both = [float(scores[best]), float(scores[worst])]
        yield {"prompt": prompt.text, "chosen": chosen, "rejected": rejected, "scores": both}


def _write(manifest: Path, rows: Sequence[dict[str, Any]]) -> None:
    partial = manifest.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, manifest)
