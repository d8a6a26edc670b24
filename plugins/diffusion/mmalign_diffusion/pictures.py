"""Pictures as files and as pixels `[3, H, W]` in [0, 1]."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.records import Media


def read(media: Media) -> Tensor:
    """One picture as `[3, H, W]` in [0, 1]. A file or bytes that cannot be read is a UserError that names it."""
    if isinstance(media, Tensor):
        return media
    source = io.BytesIO(media) if isinstance(media, bytes) else Path(media)
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"no such picture: {source}")
    name = f"picture in {len(media)} bytes of data" if isinstance(media, bytes) else f"picture {media}"
    try:
        with Image.open(source) as opened:
            # Cameras note the rotation beside the pixels.
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {name} ({error}): replace the file or remove its row") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def fit(pixels: Tensor, size: int | tuple[int, int], mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """`[B, 3, H, W]` to `[B, 3, *size]`: made just large enough (antialiased), then the centre is kept.

    size: height and width, or one side of a square. Differentiable. Pixels that already have the size come back untouched.
    """
    (height, width), wanted = pixels.shape[-2:], (size, size) if isinstance(size, int) else size
    if (height, width) == wanted:
        return pixels
    # The side that has least to spare decides.
    scale = max((wanted[0], height), (wanted[1], width), key=lambda one: one[0] / one[1])
    target = [max(least, int(scale[0] * side / scale[1])) for least, side in zip(wanted, (height, width), strict=True)]
    # Bicubic weights are partly negative and overshoot at edges.
    resized = F.interpolate(pixels, target, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    top, left = (round((side - least) / 2) for side, least in zip(target, wanted, strict=True))
    return resized[..., top : top + wanted[0], left : left + wanted[1]]


def to_image(pixels: Tensor) -> Image.Image:
    """`[3, H, W]` in [0, 1] as a picture of 8 bits a channel. Values that are no numbers become black."""
    levels = (pixels.detach().float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def write(media: Tensor, folder: Path) -> Sequence[Path]:
    """Write `[B, 3, H, W]` as `0000.png`, `0001.png`, ... and an overview `grid.png`. Returns the former."""
    images = [to_image(pixels) for pixels in media]
    paths = [folder / f"{index:04d}.png" for index in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    if images:
        grid(images).save(folder / "grid.png")
    return paths


def grid(images: Sequence[Image.Image], gap: int = 2) -> Image.Image:
    """Pictures of one size side by side in about as many rows as columns, `gap` white pixels between them."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].width + gap, images[0].height + gap
    sheet = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
