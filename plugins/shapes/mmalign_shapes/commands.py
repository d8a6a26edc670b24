"""`mmalign shapes`: train the checkpoints of this world again."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded world of coloured shapes.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The embedded world of coloured shapes."""


@app.command()
def pretrain(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the checkpoints `sd` and `clip`; new, empty, or left by an interrupted run."),
    ],
    seed: Annotated[int, typer.Option(help="Where all randomness comes from.")] = 0,
) -> None:
    """Train the generator and the CLIP from nothing: about an hour and a half on two cores.

    Example: mmalign shapes pretrain --out assets-new
    """
    from mmalign.errors import UserError
    from mmalign_shapes.pretrain.everything import pretrain_all

    if out.exists() and any(out.iterdir()) and not (out / "work").is_dir():
        raise UserError(
            f"{out} is not empty and holds no interrupted run (no folder {out / 'work'}): choose another --out"
        )
    pretrain_all(out, seed)
    typer.echo(f"wrote {out / 'sd'} and {out / 'clip'}")
