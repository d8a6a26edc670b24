"""Verbs of `mmalign data`: check, convert, info."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmalign.cli.common import Json, loaded, say_json, say_table

if TYPE_CHECKING:
    from mmalign.data.check import BadCell, Checker

DataFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl, .json, .csv, .parquet or .txt file.")]
Preset = Annotated[
    str,
    typer.Option(metavar="NAME", help="Its layout, for example pick-a-pic, or the type of its data, as text-ratings."),
]


def check(ctx: typer.Context, file: DataFile, preset: Preset = "mmalign", as_json: Json = False) -> None:
    """Read every row and every picture once and report each bad row: file, row, column, reason. Exit code 2 if any is."""
    checker = _checker(ctx, file, preset)
    _report(file, checker, checker.file(file), as_json)


def convert(
    ctx: typer.Context,
    file: DataFile,
    out: Annotated[Path, typer.Option(help="A folder for pairs.jsonl and pictures that were bytes.")],
    preset: Preset = "mmalign",
    as_json: Json = False,
) -> None:
    """Write pairs of a known layout in mmalign's own. Bad rows are reported and left out, ties left out and counted."""
    from mmalign.data.convert import convert as converted

    checker = _checker(ctx, file, preset)
    _report(file, checker, converted(file, checker, out), as_json, f"written: {out / 'pairs.jsonl'}")


def info(ctx: typer.Context, file: DataFile, preset: Preset = "mmalign", as_json: Json = False) -> None:
    """Show columns, counts, ties, lengths of texts and sizes of pictures."""
    checker = _checker(ctx, file, preset)
    for _ in checker.file(file):
        pass
    plain = checker.summary.plain()
    if as_json:
        say_json(plain)
        return
    say_table(("what", "", ""), list(_told(plain)))


def _checker(ctx: typer.Context, file: Path, name: str) -> "Checker":
    from mmalign.data.check import Checker
    from mmalign.data.layouts import layout as layout_of

    found = loaded(ctx)
    layout = layout_of("prompts" if file.suffix == ".txt" else name)
    return Checker(layout, file.parent, lambda path: found.hook.mmalign_read_media(path=path))


def _report(file: Path, checker: "Checker", bad: "Iterator[BadCell]", as_json: bool, done: str = "") -> None:
    listed = []
    for cell in bad:
        if as_json:
            listed.append(cell._asdict())
        else:
            typer.echo(f"{file}: row {cell.row}{', column ' * bool(cell.column)}{cell.column}: {cell.reason}")
    summary = checker.summary
    if as_json:
        say_json({"file": str(file), "rows": summary.rows, "bad": summary.bad, "ties": summary.ties, "faults": listed})
    else:
        for kind, count in summary.unread.items():
            typer.echo(f"not looked into: {count} {kind} (no installed plugin reads them)")
        typer.echo(f"{file}: {summary.rows} rows, {summary.bad} bad, {summary.ties} ties")
        typer.echo(done, nl=bool(done))
    if summary.bad:
        raise typer.Exit(2)


def _told(plain: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The lines of `info`."""
    for name in ("rows", "bad", "ties"):
        yield name, "", str(plain[name])
    for column, kind in plain["columns"].items():
        yield "column", column, kind
    for column, seen in plain["lengths"].items():
        yield "letters", column, f"{seen['min']} to {seen['max']}, mean {seen['mean']:.0f}"
    for size, count in plain["sizes"].items():
        yield "pictures", size, str(count)
    for kind, count in plain["unread"].items():
        yield "not looked into", kind, str(count)
