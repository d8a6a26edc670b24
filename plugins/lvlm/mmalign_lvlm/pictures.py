"""Pictures and frames as a processor takes them."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Media

LIMIT = 64_000_000
"""Pixels of the largest picture that is read; a larger one would fill memory before a processor shrinks it."""


def read(media: Media) -> Image.Image:
    """One picture of 8 bits a channel. What is no picture, has no pixels or more than `LIMIT` is a UserError that names it."""
    if isinstance(media, Tensor):
        _check_size("a picture given as pixels", media.shape[-1], media.shape[-2])
        levels = (media.detach().float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
    source = io.BytesIO(media) if isinstance(media, bytes) else Path(media)
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"no such picture: {source}")
    name = f"picture in {len(media)} bytes of data" if isinstance(media, bytes) else f"picture {media}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is below Pillow's
            with Image.open(source) as opened:
                # Its size stands at the beginning of a file; no pixel is read yet.
                _check_size(name, *opened.size)
                # Cameras note the rotation beside the pixels.
                return ImageOps.exif_transpose(opened).convert("RGB")
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} is too large ({str(error).partition(',')[0]}); {_REMEDY}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read {name} ({error}): replace the file or remove its row") from None


def within(picture: Image.Image, max_pixels: int | None) -> Image.Image:
    """The picture, made smaller with its shape kept where it has more pixels than that; None lets every size pass."""
    width, height = picture.size
    if max_pixels is None or width * height <= max_pixels:
        return picture
    scale = math.sqrt(max_pixels / (width * height))
    return picture.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)


def pixels(picture: Image.Image) -> Tensor:
    """A picture as `[3, H, W]` in [0, 1]."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def frames(video: Sequence[Media]) -> list[Image.Image]:
    """The frames of a video, all of one size. No frame, or one of another size, is a UserError."""
    found = [read(frame) for frame in video]
    sizes = list(dict.fromkeys(frame.size for frame in found))
    if len(sizes) != 1:
        what = "has no frames" if not found else f"has frames of sizes {sizes[0]} and {sizes[1]}"
        raise UserError(f"a video {what}: give it frames of one size, or remove its row")
    return found


_REMEDY = f"pictures have from 1 to {LIMIT // 10**6} million pixels: scale it or remove its row"


def _check_size(name: str, width: int, height: int) -> None:
    if not 0 < width * height <= LIMIT:
        raise UserError(f"{name} has {width} x {height} pixels; {_REMEDY}")
