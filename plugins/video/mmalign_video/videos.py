"""Videos as files and as frames `[F, 3, H, W]` in [0, 1]."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Media

# Containers round timestamps; some of them to milliseconds.
_ROUNDING = 0.002


def read(media: Media, frame_rate: float | None = None, frames: int | None = None) -> Tensor:
    """One video as `[F, 3, H, W]` in [0, 1]. Raises UserError that names one that cannot be read or is too short.

    frame_rate: what it is brought to by its timestamps: at each moment the frame that is shown then. None is its own; for a
        rate that varies, its mean. Frames that are no file are taken as they are.
    frames: how many, from the beginning; None is all.
    """
    name = _name(media)
    found = media[:frames] if isinstance(media, Tensor) else _decoded(media, name, frame_rate, frames)
    if found.ndim != 4 or found.shape[1] != 3:
        raise UserError(f"{name} is no video, which has the shape [frames, 3, height, width]")
    if len(found) < (frames or 1):
        rate = "" if frame_rate is None or isinstance(media, Tensor) else f" at {frame_rate:g} a second"
        raise UserError(
            f"{name} has {len(found)} frames{rate}, but the model needs {frames}: remove its row, "
            "or set model.frames or model.frame_rate to what the data have"
        )
    return found


def _name(media: Media) -> str:
    if isinstance(media, Tensor):
        return f"a tensor of shape {list(media.shape)}"
    return f"a video in {len(media)} bytes of data" if isinstance(media, bytes) else f"video {media}"


def _decoded(media: str | Path | bytes, name: str, frame_rate: float | None, frames: int | None) -> Tensor:
    if not isinstance(media, bytes) and not Path(media).is_file():
        raise UserError(f"no such video: {media}")
    try:
        with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media)) as container:
            found = list(islice(_frames(container, name, frame_rate), frames))
    except (av.FFmpegError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot read {name} ({reason}): replace the file or remove its row") from None
    if not found:
        raise UserError(f"{name} holds no frames: replace the file or remove its row")
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


def _frames(container: Any, name: str, frame_rate: float | None) -> Iterator[np.ndarray[Any, Any]]:
    """Frames `[H, W, 3]` of 8 bits, `frame_rate` a second."""
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        held = "only sound" if container.streams.audio else "no video"
        raise UserError(f"{name} holds {held}: replace the file or remove its row")
    stream = streams[0]
    stream.thread_type = "AUTO"
    rate = frame_rate or float(stream.average_rate or stream.guessed_rate)
    for frame in _shown(container.decode(stream), rate, 1 / float(stream.average_rate or rate)):
        yield frame.to_ndarray(format="rgb24")


def _shown(frames: Iterator[Any], rate: float, last: float) -> Iterator[Any]:
    """The frame that is shown at each of the times 0, 1 / rate, ... `last`: how long the last one is, in seconds."""
    shown, start, count, time = None, None, 0, 0.0
    for frame in frames:
        start = frame.time if start is None else start
        time = frame.time - start
        while shown is not None and count / rate < time - _ROUNDING:
            yield shown
            count += 1
        shown = frame
    while shown is not None and count / rate < time + last - _ROUNDING:
        yield shown
        count += 1
