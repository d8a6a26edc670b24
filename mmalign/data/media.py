"""Media as files beside a manifest that names them."""

import hashlib
import os
import struct
import zlib
from pathlib import Path

from torch import Tensor

from mmalign.data.check import suffix_of
from mmalign.records import Media


def stored(value: Media, out: Path) -> str:
    """Where a picture lies, relative to the folder `out` of the manifest. What is no file yet is written once, into
    `media/`, named by what it holds.
    """
    if isinstance(value, str | Path):
        return os.path.relpath(str(value), out)
    data = png(value) if isinstance(value, Tensor) else value
    name = f"media/{hashlib.sha256(data).hexdigest()[:24]}{suffix_of(data)}"
    if not (out / name).is_file():
        (out / "media").mkdir(parents=True, exist_ok=True)
        partial = out / f"{name}.partial"
        partial.write_bytes(data)
        os.replace(partial, out / name)
    return name


def png(pixels: Tensor) -> bytes:
    """Pixels `[3, H, W]` in [0, 1] as a PNG of 8 bits a channel."""
    levels = (pixels.detach().float().nan_to_num(0).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    height, width, _ = levels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in levels)  # each begins with its filter, which is none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
