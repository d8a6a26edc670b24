"""Pictures as a processor takes them."""

import io
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Media


def read(media: Media) -> Image.Image:
    """One picture of 8 bits a channel. A file or bytes that cannot be read is a UserError that names it."""
    if isinstance(media, Tensor):
        levels = (media.detach().float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
    source = io.BytesIO(media) if isinstance(media, bytes) else Path(media)
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"no such picture: {source}")
    name = f"picture in {len(media)} bytes of data" if isinstance(media, bytes) else f"picture {media}"
    try:
        with Image.open(source) as opened:
            # Cameras note the rotation beside the pixels.
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {name} ({error}): replace the file or remove its row") from None
