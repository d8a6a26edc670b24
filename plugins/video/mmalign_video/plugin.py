"""What mmalign-video offers. Importing this file imports nothing heavy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.hookspecs import hookimpl
from mmalign.specs import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.records import Samples

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg"})


@hookimpl
def mmalign_models() -> Iterator[ModelSpec]:
    """Any text-to-video pipeline of diffusers whose family we know."""
    yield ModelSpec("diffusers-video", "mmalign_video.models:VideoModel", process="denoising")


@hookimpl
def mmalign_write_samples(samples: "Samples", folder: Path) -> Sequence[Path] | None:
    """Videos as MP4 files, with a contact sheet `grid.png` beside them; samples that are no videos are left to others."""
    shape = getattr(samples.made, "shape", ())
    if len(shape) != 5 or shape[2] != 3:
        return None
    from mmalign_video import videos

    return videos.write(samples, folder)


@hookimpl(tryfirst=True)
def mmalign_read_media(path: Path) -> "Tensor | None":
    """A video file as frames, at its own rate, or its mean where it varies. GIFs that do not move are pictures of others."""
    if path.suffix.lower() not in VIDEOS | {".gif"}:
        return None
    from mmalign_video import videos

    frames = videos.read(path)
    return None if path.suffix.lower() == ".gif" and len(frames) == 1 else frames
