"""What the command line does with a finished run, a config or a folder of samples: sample, score, evaluate."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from mmalign import checkpoint, plugins
from mmalign.builtin.evaluation import evaluate as evaluate_policy
from mmalign.builtin.held_out import measure
from mmalign.builtin.statistics import estimates, summary
from mmalign.choices import Choice
from mmalign.compose import (
    Chosen,
    build_guidance,
    build_held_out,
    build_judges,
    build_metrics,
    build_objective,
    build_policy,
    choose,
    evaluation_prompts,
)
from mmalign.config import load
from mmalign.console import track
from mmalign.data.sources import Prompts, SampleRows, table
from mmalign.document import value
from mmalign.errors import UserError
from mmalign.fits import makes_samples
from mmalign.guidance import Lead, sampler
from mmalign.metrics import CheckedMetric
from mmalign.options import complete
from mmalign.parts import Counts, Parts
from mmalign.records import Samples, batched
from mmalign.rewards.weighted import CheckedReward


@dataclass(frozen=True)
class Target:
    """A run folder or a config, opened."""

    chosen: Chosen
    checkpoint: Path | None


def open_target(path: Path, overrides: Sequence[str] = ()) -> Target:
    """Open a run folder (its newest checkpoint) or a config (the model before training)."""
    config = path / "config.yaml" if path.is_dir() else path
    if not config.is_file():
        raise UserError(f"{path} is neither a run folder nor a config file")
    document = load(config, overrides, tolerant=True)
    chosen = choose(document, plugins.load(document.config.plugins, document.path.parent))
    if not path.is_dir():
        return Target(chosen, None)
    found = checkpoint.found(path / "checkpoints")
    if not found:
        raise UserError(f"{path} holds no checkpoint yet: train it first, or name its config to use the base model")
    return Target(chosen, found[-1])


def policy_of(target: Target) -> Any:
    """The model, with the checkpoint's weights."""
    policy = build_policy(target.chosen)
    if target.checkpoint is not None:
        shared, _ = checkpoint.read(target.checkpoint, 0)
        policy.load_state_dict(shared["policy"])
    return policy


def sample(
    target: Path,
    prompts: Path,
    out: Path,
    overrides: Sequence[str] = (),
    guidance: str | None = None,
    weights: Sequence[str] = (),
) -> list[Path]:
    """Sample each prompt of a file once into `out`, with `samples.jsonl` beside the files. Returns the files.

    guidance, weights: what leads the samples, and the rewards it follows, as `mmalign.guidance.sampler` takes them.
    """
    opened = open_target(target, overrides)
    if not makes_samples(opened.chosen.process):
        raise UserError(
            f"model '{opened.chosen.model.offer.spec.name}' scores and makes no samples: see `mmalign score`"
        )
    rows = Prompts(str(prompts))
    draw = sampler(opened.chosen, guidance, weights)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    policy, evaluation = policy_of(opened), opened.chosen.config.evaluation
    everything = [rows[i]["prompt"] for i in range(len(rows))]
    seeds = [evaluation.seed + i for i in range(len(everything))]
    files: list[Path] = []
    drawn: list[int] = []
    for start in track(range(0, len(everything), evaluation.batch_size), "batches of samples"):
        batch = slice(start, start + evaluation.batch_size)
        with policy.sampled(opened.chosen.evaluation_sampling):
            samples = draw(policy, everything[batch], seeds[batch])
        drawn += samples.seeds or seeds[batch]
        folder = out if len(everything) <= evaluation.batch_size else out / f"{start:05d}"
        folder.mkdir(exist_ok=True)
        files += opened.chosen.plugins.hook.mmalign_write_samples(samples=samples, folder=folder)
    _warn(draw)
    with open(out / "samples.jsonl", "w", encoding="utf-8") as manifest:
        for prompt, seed, file in zip(everything, drawn, files, strict=True):
            row = {"prompt": prompt.text, "seed": seed, "sample": str(file.relative_to(out))}
            manifest.write(json.dumps(row) + "\n")
    return files


def score(
    folder: Path, rewards: Sequence[str], options: Sequence[str] = (), metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Score the samples of a folder (its `samples.jsonl`) with each reward, and count them with each metric, named as in a
    config. What a row says of its sample is the metadata of its prompt.

    options: `name.key=value`, for example `clip-score.model=ViT-B-32`. Returns {reward: {"mean", "se", "n", "scores"}}; with
    metrics also {"metrics": {metric: {number: {"mean", "se", "n"}}}}.
    """
    if not rewards and not metrics:
        raise UserError("nothing to score with: name a --reward or a --metric, see `mmalign list`")
    manifest = folder / "samples.jsonl"
    if not manifest.is_file():
        raise UserError(f"{folder} holds no samples.jsonl: make samples with `mmalign sample`")
    found = plugins.load()
    scorers = {name: CheckedReward(name, _part(found, "reward", name, options).build()) for name in rewards}
    counters = {name: _counter(found, name, options) for name in metrics}
    scores: dict[str, list[float]] = {name: [] for name in rewards}
    counts: dict[str, list[Counts | None]] = {name: [] for name in metrics}
    for samples in _read(manifest, found):
        for name, scorer in scorers.items():
            scores[name] += scorer(samples).values.tolist()
        for name, counter in counters.items():
            counts[name] += counter.counts(samples)
    results: dict[str, Any] = {name: {**summary(found), "scores": found} for name, found in scores.items()}
    numbers = {name: estimates(counters[name].numbers, rows) for name, rows in counts.items()}
    return results | ({"metrics": numbers} if numbers else {})


def evaluate(target: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Sample the evaluation prompts, under the evaluation's guidance if it has one; score them with the evaluation rewards and
    count them with the evaluation metrics; take the objective's own metrics of `evaluation.data`.

    Returns {reward: {"role", "mean", ...}}; where the config names such, {"metrics": {metric: {number: {"mean", ...}}}} and
    {"held_out": {"loss", ...}} beside it.
    """
    opened = open_target(target, overrides)
    prompts, judges = evaluation_prompts(opened.chosen), build_judges(opened.chosen)
    metrics, held_out = build_metrics(opened.chosen), build_held_out(opened.chosen)
    if not (prompts and (judges or metrics)) and held_out is None:
        raise UserError(
            "nothing to evaluate: the config names no evaluation.prompts, or no evaluation.rewards and evaluation.metrics, "
            "and no evaluation.data"
        )
    draw = build_guidance(opened.chosen)
    evaluation, policy = opened.chosen.config.evaluation, policy_of(opened)
    results: dict[str, Any] = {}
    if judges or metrics:
        seeds = [evaluation.seed + i for i in range(len(prompts))]
        with policy.sampled(opened.chosen.evaluation_sampling):
            show = partial(track, what="evaluating")
            how: dict[str, Any] = {"metrics": metrics, "draw": draw, "show": show}
            found = evaluate_policy(policy, prompts, judges, seeds, evaluation.batch_size, **how)
        if draw is not None:
            _warn(draw)
        results = {name: {"role": judges[name].role, **summary(scores)} for name, scores in found.scores.items()}
        numbers = {name: estimates(metrics[name].numbers, counts) for name, counts in found.counts.items()}
        results |= {"metrics": numbers} if numbers else {}
    if held_out is None:
        return results
    parts = Parts(policy, build_objective(opened.chosen), held_out, held_out=held_out)
    return {**results, "held_out": measure(parts, evaluation.batch_size, evaluation.seed)}


def _warn(led: Lead) -> None:
    """Say what went wrong while samples were led, beside what is printed for machines."""
    for sentence in led.warnings():
        print(f"warning: {sentence}", file=sys.stderr)


def _counter(found: plugins.Plugins, name: str, options: Sequence[str]) -> CheckedMetric:
    choice = _part(found, "metric", name, options)
    if choice.offer.spec.judge:
        raise UserError(
            f"metric '{name}' asks a judge: name both in the evaluation of a config, and use `mmalign evaluate`"
        )
    return CheckedMetric(name, choice.build())


def _part(found: plugins.Plugins, kind: str, name: str, options: Sequence[str]) -> Choice:
    """The reward or metric of that name with those of the options that are its own."""
    offer = found.catalogue.find(kind, name)
    prefix = f"{name}."
    written = (option.removeprefix(prefix).partition("=") for option in options if option.startswith(prefix))
    given = {key: value(text) for key, _, text in written}
    return Choice(kind, offer, complete(offer.spec, given), found.catalogue)


def _read(manifest: Path, found: plugins.Plugins, batch_size: int = 16) -> Iterator[Samples]:
    """The samples of a manifest in their order, in batches of equal shape and frame rate."""
    rows, told = SampleRows(str(manifest)), table(str(manifest))
    for start in track(range(0, len(rows), batch_size), "batches scored"):
        places = range(start, min(start + batch_size, len(rows)))
        files = [Path(str(rows[i]["sample"])) for i in places]
        media = [(read_media(found, file), found.hook.mmalign_frame_rate(path=file)) for file in files]
        prompts = [replace(rows[i]["prompt"], metadata=told[i]) for i in places]
        pairs = zip(prompts, media, strict=True)
        for (_, rate), alike in groupby(pairs, key=lambda pair: (getattr(pair[1][0], "shape", None), pair[1][1])):
            some, made = zip(*alike, strict=True)
            yield Samples(some, batched([one for one, _ in made]), frame_rate=rate)


def read_media(found: plugins.Plugins, path: Path) -> Any:
    """A sample's pixels or text. Raises UserError when the file is missing or no plugin reads its kind."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    media = found.hook.mmalign_read_media(path=path)
    if media is None:
        raise UserError(f"{path}: no installed plugin reads {path.suffix or 'such'} files")
    return media
