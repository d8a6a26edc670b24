"""JPEG size: how hard a picture is to compress (DDPO, arXiv:2305.13301). Compressibility is the same with weight -1."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mmalign.records import Samples
from mmalign_diffusion import pictures


class JpegSize:
    """Size of the picture as a JPEG in kB (1000 bytes). Not differentiable. NaN where a pixel is no number.

    quality: of the JPEG, 1 to 95.
    """

    def __init__(self, quality: Annotated[int, Field(ge=1, le=95)] = 95):
        self.quality = quality

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`."""
        media = samples.media.detach().float().cpu()
        # The encoder lets go of the interpreter, so threads help.
        with ThreadPoolExecutor() as pool:
            sizes = torch.tensor(list(pool.map(self._kilobytes, media)), dtype=torch.float32)
        return sizes.to(samples.media.device)

    def _kilobytes(self, pixels: Tensor) -> float:
        if not bool(pixels.isfinite().all()):
            return float("nan")
        file = io.BytesIO()
        pictures.to_image(pixels).save(file, "JPEG", quality=self.quality)
        return file.tell() / 1000
