"""What mmalign-video offers. Importing this file imports nothing heavy."""

from collections.abc import Iterator

from mmalign.hookspecs import hookimpl
from mmalign.specs import ModelSpec


@hookimpl
def mmalign_models() -> Iterator[ModelSpec]:
    """Any text-to-video pipeline of diffusers whose family we know."""
    yield ModelSpec("diffusers-video", "mmalign_video.models:VideoModel", process="denoising")
