"""What mmalign-diffusion offers. Importing this file imports nothing heavy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.hookspecs import hookimpl
from mmalign.specs import ModelSpec, RewardSpec

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.records import Samples

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@hookimpl
def mmalign_models() -> Iterator[ModelSpec]:
    """Any text-to-image pipeline of diffusers whose family we know: SD 1.x/2.x, SDXL, SD3, FLUX; and CLIP as a judge."""
    yield ModelSpec("diffusers", "mmalign_diffusion.models:DiffusersModel", process="denoising")
    yield ModelSpec("clip-reward", "mmalign_diffusion.models.judge:ClipJudge", process="scoring")


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """Rewards that look at a picture, alone or beside its prompt."""
    home = "mmalign_diffusion.rewards"
    yield RewardSpec("clip-score", f"{home}.clip:ClipScore", differentiable=True, paper="arXiv:2104.08718")
    yield RewardSpec("aesthetic", f"{home}.aesthetic:Aesthetic", differentiable=True, paper="arXiv:2210.08402")
    yield RewardSpec("colourfulness", f"{home}.colourfulness:Colourfulness", differentiable=True)
    yield RewardSpec("jpeg-size", f"{home}.jpeg:JpegSize", paper="arXiv:2305.13301")


@hookimpl
def mmalign_write_samples(samples: "Samples", folder: Path) -> Sequence[Path] | None:
    """Pictures as PNG files, with `grid.png` beside them; samples that are no pictures are left to others."""
    shape = getattr(samples.made, "shape", ())
    if len(shape) != 4 or shape[1] != 3:
        return None
    from mmalign_diffusion import pictures

    return pictures.write(samples.media, folder)


@hookimpl
def mmalign_read_media(path: Path) -> "Tensor | None":
    """A picture file as pixels."""
    if path.suffix.lower() not in PICTURES:
        return None
    from mmalign_diffusion import pictures

    return pictures.read(path)
