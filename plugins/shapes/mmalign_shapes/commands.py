"""`mmalign shapes`: train the checkpoints of this world again."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded world of coloured shapes.", no_args_is_help=True)


class Stage(StrEnum):
    """What can be trained alone."""

    pictures = "pictures"
    captioner = "captioner"
    reader = "reader"
    video = "video"


@app.callback()
def _group() -> None:
    """The embedded world of coloured shapes."""


@app.command()
def pretrain(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the checkpoints; new, empty, or left by an interrupted run."),
    ],
    only: Annotated[
        Stage | None,
        typer.Option(
            help="Train no more than this: `pictures` is `sd` and `clip`, `video` is `wan`, the others are what they are called."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Where all randomness comes from.")] = 0,
) -> None:
    """Train generator, CLIP, captioner, reader and the generator of videos from nothing: about three hours on two cores.

    The captioner alone takes a quarter of an hour, the reader and the generator of videos a third of one each.

    Example: mmalign shapes pretrain --out assets-new --only captioner
    """
    from mmalign.errors import UserError
    from mmalign_shapes.pretrain import everything

    if out.exists() and any(out.iterdir()) and not (out / "work").is_dir():
        raise UserError(
            f"{out} is not empty and holds no interrupted run (no folder {out / 'work'}): choose another --out"
        )
    if only in (None, Stage.reader) and find_spec("mmalign_lvlm") is None:
        raise UserError("the reader is trained by mmalign-lvlm, which is not installed: pip install mmalign-lvlm")
    stages = {
        None: everything.pretrain_all,
        Stage.pictures: everything.pretrain_pictures,
        Stage.captioner: everything.pretrain_captioner,
        Stage.reader: everything.pretrain_reader,
        Stage.video: everything.pretrain_video,
    }
    stages[only](out, seed)
    written = ", ".join(str(file.parent) for file in sorted(out.glob("*/training.json")))
    typer.echo(f"wrote {written}")
