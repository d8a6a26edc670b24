"""Verbs of `mmalign config`: check, show, schema."""

import typer

from mmalign.cli.common import ConfigFile, Overrides, opened, say_json


def check(ctx: typer.Context, config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a config and every part it names. Reads no data and no weights, and needs no network."""
    chosen = opened(ctx, config, overrides)
    typer.echo(f"{chosen.document.path}: ok")


def show(ctx: typer.Context, config: ConfigFile, overrides: Overrides = None) -> None:
    """Print a config with every default, as a run would keep it."""
    chosen = opened(ctx, config, overrides)

    from mmalign.compose import resolved
    from mmalign.document import text

    typer.echo(text(resolved(chosen)), nl=False)


def schema() -> None:
    """Print the JSON schema of configs, for editors."""
    from mmalign.config import Config

    say_json(Config.model_json_schema())
