"""Draw scenes with Pillow."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmalign_shapes.scenes import COLORS, SIZE, Scene, Thing

_SCALE = 4
_ARM = 0.36
"""Half the width of a cross's arm, in radii."""


def picture(scene: Scene) -> Image.Image:
    """The scene as a 64 x 64 RGB picture, antialiased."""
    side = SIZE * _SCALE
    image = Image.new("RGB", (side, side), (scene.background,) * 3)
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        for polygon in outline(thing):
            canvas.polygon([(x * _SCALE, y * _SCALE) for x, y in polygon], fill=COLORS[thing.kind.color])
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def pixels(scenes: Sequence[Scene]) -> Tensor:
    """`[B, 3, 64, 64]` in [0, 1]."""
    arrays = np.stack([np.asarray(picture(scene)) for scene in scenes])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def outline(thing: Thing) -> list[list[tuple[float, float]]]:
    """The polygons that fill a thing."""
    x, y, r = thing.x, thing.y, thing.radius
    a = _ARM * r
    match thing.kind.shape:
        case "circle":
            angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
            return [[(x + r * float(np.cos(t)), y + r * float(np.sin(t))) for t in angles]]
        case "square":
            return [[(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]]
        case "triangle":
            return [[(x, y - r), (x + r, y + r), (x - r, y + r)]]
        case _:
            return [
                [(x - r, y - a), (x + r, y - a), (x + r, y + a), (x - r, y + a)],
                [(x - a, y - r), (x + a, y - r), (x + a, y + r), (x - a, y + r)],
            ]
