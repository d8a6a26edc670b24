"""Verbs that run something: train, plan, collect, sample, score, evaluate, report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmalign.cli.common import (
    ConfigFile,
    Json,
    Overrides,
    Target,
    loaded,
    need_plugins,
    opened,
    opened_collection,
    opened_stages,
    say_json,
    say_table,
)
from mmalign.errors import UserError, nearest

if TYPE_CHECKING:
    from mmalign.stages import Stage, StagedDocument


LABELS = ("absent", "faithful", "hallucinated", "none")


def train(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this run.")] = False,
) -> None:
    """Train a model as a config says, into a run folder of its own, or a stage after the other into one each."""
    if staged := opened_stages(ctx, config, overrides):
        from mmalign import rounds

        folder = rounds.train(*staged, resume)
    else:
        chosen = opened(ctx, config, overrides)

        from mmalign import run

        folder = run.train(chosen, resume)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"run folder: {folder}")


def plan(ctx: typer.Context, config: ConfigFile, overrides: Overrides = None) -> None:
    """Show what a run of a config will do, in order, and which function of which file does it. Nothing is built."""
    if staged := opened_stages(ctx, config, overrides):
        _plan_stages(*staged)
        return
    chosen = opened_collection(ctx, config, overrides) or opened(ctx, config, overrides)

    from mmalign.plan import path

    rows = [(stage.name, stage.what, stage.where) for stage in path(chosen)]
    typer.echo(f"{chosen.document.source.path}: every check passed\n")
    say_table(("stage", "what", "where"), rows)


def _plan_stages(document: "StagedDocument", stages: "Sequence[Stage]") -> None:
    """How far each stage is, then the path of each stage of the first round."""
    from mmalign import plan, rounds

    found = rounds.statuses(stages)
    rows = [(s.name, f.what, f.why, ", ".join(s.needs)) for s, f in zip(stages, found, strict=True)]
    typer.echo(f"{document.source.path}: every check passed\n")
    say_table(("stage", "now", "what changed", "needs"), rows)
    for stage in stages[: len(document.staged.stages)]:
        typer.echo(f"\n{stage.name}")
        say_table(("part", "what", "where"), [(part.name, part.what, part.where) for part in plan.path(stage.chosen)])


def collect(
    ctx: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; asks only where no verdict was given yet.")] = False,
    as_json: Json = False,
) -> None:
    """Collect feedback: a judge labels the segments of a model's answers, or of those in the data, into a run folder."""
    from mmalign import collection

    file = config / "config.yaml" if config.is_dir() else config
    document = collection.load(file, overrides or ())
    chosen = collection.choose(document, loaded(ctx, document.config.plugins, file.parent))

    from mmalign import collecting
    from mmalign.console import aside
    from mmalign.engine import agreed

    with aside(as_json):
        folder = agreed(lambda: collecting.collect(chosen, resume))
    if os.environ.get("RANK", "0") == "0":
        _say_collected(folder, collecting.summary(folder), as_json)


def _say_collected(folder: Path, summary: Mapping[str, Any], as_json: bool) -> None:
    """Labels by kind, counts, and what it has cost."""
    if as_json:
        say_json(summary)
        return
    rows = [(kind, *(labels.get(name, 0) for name in LABELS)) for kind, labels in summary["labels"].items()]
    say_table(("segments", *LABELS), rows)
    for name in ("answers", "empty", "unlabelled", "unread", "skipped"):
        typer.echo(f"{name + ':':12} {summary[name]}")
    for name, value in summary["spent"].items():
        typer.echo(f"{name + ':':12} {value:g}")
    typer.echo(f"run folder: {folder}")


def sample(
    ctx: typer.Context,
    target: Target,
    prompts: Annotated[Path, typer.Option(help="A file with a prompt a line, or .jsonl, .csv, .parquet.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder for the samples.")],
    overrides: Overrides = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What leads the samples, by name or with options: '{type: best-of-n, n: 8}'."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD=W",
            help="How much the guidance follows a reward; several times for several. By default as the config trains.",
        ),
    ] = None,
) -> None:
    """Sample each prompt of a file once, from a trained run or the base model of a config; led by rewards with --guidance."""
    need_plugins(ctx)

    from mmalign import verbs

    files = verbs.sample(target, prompts, out, overrides or (), guidance, weight or ())
    typer.echo(f"{len(files)} samples in {out}, listed in {out / 'samples.jsonl'}")


def score(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `mmalign sample` made.")],
    reward: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A reward; give it several times for several.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A metric that asks no judge; several times for several.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="NAME.KEY=VALUE", help="An option of a reward or of a metric.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score samples with rewards, count them with metrics. With --json also every single score."""
    need_plugins(ctx)
    for option in options or ():
        _check_part_option(option, [*(reward or ()), *(metric or ())])

    from mmalign import verbs
    from mmalign.console import aside

    with aside(as_json):
        results = verbs.score(folder, reward or (), options or (), metric or ())
    if as_json:
        say_json(results)
    else:
        _say_evaluation(results, ())


def evaluate(
    ctx: typer.Context,
    target: Target,
    overrides: Overrides = None,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write it as JSON.")] = None,
) -> None:
    """Sample the evaluation prompts of a run or a config, score and count them; take the objective's metrics of its held-out
    rows."""
    need_plugins(ctx)

    from mmalign import verbs
    from mmalign.console import aside

    with aside(as_json):
        results = verbs.evaluate(target, overrides or ())
    if out is not None:
        from mmalign.builtin.files import to_json, write

        write(out, to_json(results, indent=2) + "\n")
    if as_json:
        say_json(results)
        return
    _say_evaluation(results, ("role",))


def _say_evaluation(results: dict[str, Any], extra: Sequence[str]) -> None:
    """A table each for rewards, metrics and held-out rows. extra: what else is told of a reward."""
    metrics = results.pop("metrics", {})
    held_out = results.pop("held_out", None)
    if results:
        _say_scores(results, extra)
    for name, numbers in metrics.items():
        _say_scores(numbers, (), what=name)
    if held_out is not None:
        say_table(("held-out rows", "value"), [(name, f"{value:.4f}") for name, value in held_out.items()])


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Default: report.html in the run's folder, comparison.html for several.")
    ] = None,
) -> None:
    """Write a report of one run, or of several side by side, as one HTML file."""
    from mmalign.report import write

    typer.echo(f"report: {write(runs, out)}")


def _check_part_option(option: str, parts: Sequence[str]) -> None:
    key, equals, _ = option.partition("=")
    name, dot, _ = key.rpartition(".")
    if not equals or not dot:
        raise UserError(f"'{option}' is not of the form NAME.KEY=VALUE, for example clip-score.model=ViT-B-32")
    if name not in parts:
        raise UserError(f"'{option}': '{name}' is no --reward and no --metric{nearest(name, parts)}")


def _say_scores(results: Mapping[str, Mapping[str, Any]], extra: Sequence[str], what: str = "reward") -> None:
    """A line a reward, or a metric's number: mean, standard error, number of samples scored and not scored."""
    headers = (what, *extra, "mean", "se", "n", "unscored")
    rows = []
    for name, result in results.items():
        numbers = (f"{result['mean']:.4f}", f"{result['se']:.4f}", result["n"], result["unscored"])
        rows.append((name, *(result[key] for key in extra), *numbers))
    say_table(headers, rows)
