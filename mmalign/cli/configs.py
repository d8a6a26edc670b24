"""Verbs of `mmalign config`: check, show, schema."""

from typing import TYPE_CHECKING

import typer

from mmalign.cli.common import ConfigFile, Overrides, opened, opened_collection, opened_stages, say_json

if TYPE_CHECKING:
    from mmalign.collection import ChosenCollection
    from mmalign.compose import Chosen


def check(ctx: typer.Context, config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and every part it names. Reads no data and no weights, and needs no network."""
    if staged := opened_stages(ctx, config, overrides):
        document, stages = staged
        typer.echo(f"{document.source.path}: ok, {len(stages)} stages in {document.staged.rounds} rounds")
        return
    if collection := opened_collection(ctx, config, overrides):
        typer.echo(f"{collection.document.source.path}: ok")
        return
    chosen = opened(ctx, config, overrides)
    typer.echo(f"{chosen.document.path}: ok")


def show(ctx: typer.Context, config: ConfigFile, overrides: Overrides = None) -> None:
    """Print a config with every default, as a run would keep it; one document a stage."""
    everything: list[Chosen | ChosenCollection]
    if staged := opened_stages(ctx, config, overrides):
        everything = [stage.chosen for stage in staged[1]]
    else:
        everything = [opened_collection(ctx, config, overrides) or opened(ctx, config, overrides)]

    from mmalign.collection import resolved
    from mmalign.document import text

    typer.echo("---\n".join(text(resolved(chosen)) for chosen in everything), nl=False)


def schema() -> None:
    """Print the JSON schema of configs, for editors."""
    from mmalign.config import Config

    say_json(Config.model_json_schema())
