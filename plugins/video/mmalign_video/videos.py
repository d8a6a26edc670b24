"""Videos as files and as frames `[F, 3, H, W]` in [0, 1]."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Media, Samples
from mmalign_video.sheet import sheet

FRAME_RATE = 8.0
"""Frames a second of written videos of which nobody knows it."""

# Containers round timestamps; some of them to milliseconds.
_ROUNDING = 0.002


def read(media: Media, frame_rate: float | None = None, frames: int | None = None) -> Tensor:
    """One video as `[F, 3, H, W]` in [0, 1]. Raises UserError that names one that cannot be read or is too short.

    frame_rate: what it is brought to by its timestamps: at each moment the frame that is shown then. None is its own; for a
        rate that varies, its mean. Frames that are no file are taken as they are.
    frames: how many, from the beginning; None is all. What comes after them is not looked at: a file that was cut off there
        passes, but `mmalign data check` reads all of it.
    """
    name = _name(media)
    found = media[:frames] if isinstance(media, Tensor) else _decoded(media, name, frame_rate, frames)
    if found.ndim != 4 or found.shape[1] != 3:
        raise UserError(f"{name} is no video, which has the shape [frames, 3, height, width]")
    if len(found) < (frames or 1):
        rate = "" if frame_rate is None or isinstance(media, Tensor) else f" at {frame_rate:g} a second"
        raise UserError(
            f"{name} has {len(found)} frames{rate}, but the model needs {frames or 1}: remove its row, "
            "or set model.frames or model.frame_rate to what the data have"
        )
    return found


def frame_rate(media: str | Path) -> float:
    """How many frames a second `read` gives of a file. Raises UserError that names one that cannot be read."""
    name = _name(media)
    with _opened(media, name) as container:
        return _rate(_stream(container, name))


def write(samples: Samples, folder: Path) -> Sequence[Path]:
    """Write `0000.mp4`, `0001.mp4`, ... at the samples' frame rate and an overview `grid.png`. Returns the former."""
    media = samples.media.detach().float().nan_to_num(0).clamp(0, 1).cpu()
    paths = [folder / f"{index:04d}.mp4" for index in range(len(media))]
    for frames, path in zip(media, paths, strict=True):
        _encode(frames, path, samples.frame_rate or FRAME_RATE)
    if paths:
        sheet(media, samples.texts).save(folder / "grid.png")
    return paths


def at_rate(frames: Tensor, rate: float | None, wanted: float | None) -> Tensor:
    """Of frames `[F, 3, H, W]`, `rate` a second, those that are shown at each of the times 0, 1 / wanted, ...; all of them
    where either is not known."""
    if not rate or not wanted:
        return frames
    count = max(1, math.ceil((len(frames) / rate - _ROUNDING) * wanted))
    places = (torch.arange(count) * rate / wanted + 1e-6).long().clamp(max=len(frames) - 1)
    return frames[places.to(frames.device)]


def _encode(frames: Tensor, path: Path, frame_rate: float) -> None:
    """H.264, or MPEG-4 where it is missing; their players want even sides, so the last row or column may be doubled."""
    height, width = frames.shape[-2:]
    even = torch.nn.functional.pad(frames, (0, width % 2, 0, height % 2), mode="replicate")
    levels = (even * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # Small pictures show every fault of coarse coding.
    options = {"crf": "12"} if codec == "libx264" else {"qscale": "2"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(1001), options=options)
        stream.height, stream.width = levels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _name(media: Media) -> str:
    if isinstance(media, Tensor):
        return f"a tensor of shape {list(media.shape)}"
    return f"a video in {len(media)} bytes of data" if isinstance(media, bytes) else f"video {media}"


def _decoded(media: str | Path | bytes, name: str, frame_rate: float | None, frames: int | None) -> Tensor:
    with _opened(media, name) as container:
        found = list(islice(_frames(container, name, frame_rate), frames))
    if not found:
        raise UserError(f"{name} holds no frames: replace the file or remove its row")
    if len(sizes := list(dict.fromkeys(f"{one.shape[1]}x{one.shape[0]}" for one in found))) > 1:
        raise UserError(f"{name} changes its size ({', then '.join(sizes)}): replace the file or remove its row")
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


@contextmanager
def _opened(media: str | Path | bytes, name: str) -> Iterator[Any]:
    """A container. Raises UserError where it cannot be read, now or within."""
    if not isinstance(media, bytes) and not Path(media).is_file():
        raise UserError(f"no such video: {media}")
    try:
        with av.open(io.BytesIO(media) if isinstance(media, bytes) else str(media)) as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"cannot read {name} ({reason}): replace the file or remove its row") from None


def _stream(container: Any, name: str) -> Any:
    """The first video in a container that is no picture of its cover. Raises UserError where there is none."""
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        held = "only sound" if container.streams.audio else "no video"
        raise UserError(f"{name} holds {held}: replace the file or remove its row")
    return streams[0]


def _rate(stream: Any) -> float:
    """Frames a second, on average where they vary."""
    return float(stream.average_rate or stream.guessed_rate or FRAME_RATE)


def _frames(container: Any, name: str, frame_rate: float | None) -> Iterator[np.ndarray[Any, Any]]:
    """Frames `[H, W, 3]` of 8 bits, `frame_rate` a second."""
    stream = _stream(container, name)
    stream.thread_type = "AUTO"
    rate = _rate(stream)
    decoded = _whole(container, stream, _timed(container.decode(stream), 1 / rate), 1 / rate, name)
    for frame in _shown(decoded, frame_rate or rate, 1 / rate):
        yield frame.to_ndarray(format="rgb24")


def _timed(frames: Iterator[Any], length: float) -> Iterator[tuple[float, Any]]:
    """Frames with the times from which they are shown, in seconds: one after the other where a bare stream tells none."""
    for count, frame in enumerate(frames):
        yield (count * length if frame.time is None else frame.time), frame


def _whole(
    container: Any, stream: Any, frames: Iterator[tuple[float, Any]], length: float, name: str
) -> Iterator[tuple[float, Any]]:
    """All frames. Raises UserError where the file ends before it says. length: of a frame in seconds."""
    count, end = 0, 0.0
    for time, frame in frames:
        count, end = count + 1, max(end, time + float((frame.duration or 0) * (frame.time_base or 0) or length))
        yield time, frame
    missing = _end(container, stream, end) - end
    # Not all containers count their frames; those that do not also round.
    if count and count != stream.frames and missing > length * (0.5 if stream.frames else 1.5):
        raise UserError(
            f"{name} is cut off ({missing:.2f} of {end + missing:.2f} seconds are missing): replace the file or remove its row"
        )


def _end(container: Any, stream: Any, found: float) -> float:
    """When the video ends, in seconds, as the file says; what was found where it does not."""
    if stream.duration:
        return float((stream.start_time or 0) + stream.duration) * float(stream.time_base)
    # A container's duration is that of its sound, too.
    known = container.duration is not None and not container.streams.audio
    return float(container.duration / av.time_base) if known else found


def _shown(frames: Iterator[tuple[float, Any]], rate: float, last: float) -> Iterator[Any]:
    """The frame that is shown at each of the times 0, 1 / rate, ... `last`: how long the last one is, in seconds."""
    shown, start, count, time = None, None, 0, 0.0
    for moment, frame in frames:
        start = moment if start is None else start
        time = moment - start
        while shown is not None and count / rate < time - _ROUNDING:
            yield shown
            count += 1
        shown = frame
    while shown is not None and count / rate < time + last - _ROUNDING:
        yield shown
        count += 1
