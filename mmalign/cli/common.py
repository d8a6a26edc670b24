"""What the verbs share: their arguments, how a config is opened, how tables are printed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmalign.errors import UserError

if TYPE_CHECKING:
    from mmalign.collection import ChosenCollection
    from mmalign.compose import Chosen
    from mmalign.plugins import Plugins
    from mmalign.stages import Stage, StagedDocument

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file, or the folder of a run.")]
Target = Annotated[
    Path, typer.Argument(metavar="RUN|CONFIG", help="The folder of a run, or a config for the base model.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any key of the config, for example trainer.steps=50.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def loaded(ctx: typer.Context, files: Sequence[str] = (), base: Path | None = None) -> "Plugins":
    """Plugins: mmalign's, the installed ones (unless `--no-plugins`), and `files`."""
    from mmalign import plugins

    return plugins.load(files, base, installed=not ctx.find_root().params["no_plugins"])


def opened(ctx: typer.Context, path: Path, overrides: Sequence[str] | None) -> "Chosen":
    """A config, read and checked together with the parts it names. Raises one UserError with every fault."""
    from mmalign.config import load

    document = load(path / "config.yaml" if path.is_dir() else path, overrides or (), tolerant=True)
    found = loaded(ctx, document.config.plugins, document.path.parent)

    from mmalign.compose import choose

    return choose(document, found)


def opened_collection(ctx: typer.Context, path: Path, overrides: Sequence[str] | None) -> "ChosenCollection | None":
    """A config that collects feedback, read and checked together with its parts; None when it is of something else."""
    from mmalign.collected import is_collection
    from mmalign.document import read_source

    file = path / "config.yaml" if path.is_dir() else path
    data = read_source(file).data
    if "stages" in data or not is_collection(data):
        return None
    from mmalign import collection

    document = collection.load(file, overrides or ())
    return collection.choose(document, loaded(ctx, document.config.plugins, file.parent))


def opened_stages(
    ctx: typer.Context, path: Path, overrides: Sequence[str] | None
) -> "tuple[StagedDocument, list[Stage]] | None":
    """A document with `stages:`, read and checked together with its parts; None when it is a single run."""
    from mmalign import stages

    file = path / "config.yaml" if path.is_dir() else path
    if not stages.has_stages(file):
        return None
    document = stages.load(file, overrides or ())
    return document, stages.choose_all(document, loaded(ctx, document.staged.plugins, file.parent))


def need_plugins(ctx: typer.Context) -> None:
    """Refuse `--no-plugins` for a verb that needs models or rewards of installed plugins."""
    if ctx.find_root().params["no_plugins"]:
        raise UserError(f"--no-plugins: '{ctx.info_name}' needs the installed plugins")


def say_json(value: Any) -> None:
    """Print JSON, indented."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as aligned columns, never wrapped, so that they can be piped."""
    lines = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
