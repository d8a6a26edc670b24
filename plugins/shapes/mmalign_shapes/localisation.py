"""Questions where a thing is, with its box: for rewards that are rules, as in Visual-RFT.

    Where is the red circle?        [1,2,4,5]

Coordinates x1, y1, x2, y2 count the picture's columns and rows, from 0 to `grid`; the right ones are rounded.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt

from mmalign.records import Prompt
from mmalign_shapes import render
from mmalign_shapes.images import ShapesImages
from mmalign_shapes.scenes import SIZE, Thing


class ShapesLocalisation(ShapesImages):
    """Pictures of two to four things with a question about one of them; the sample is its box. For `sft`, and for objectives on
    rollouts, whose rewards find the box in the prompt's metadata, as `boxes`.

    split: "train" or "held-out"; a combination of things is in one of them only. size: how many. seed: which ones.
    grid: how many columns and rows coordinates count; 64 is pixels.
    """

    def __init__(self, split: str = "train", size: int = 512, seed: int = 0, grid: PositiveInt = 8):
        super().__init__(split, size, seed)
        self._grid = grid

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        scene = self._scenes[index]
        thing = self._rng(index).choice(scene.things)
        box = [round(self._grid * edge / SIZE) for edge in edges(thing)]
        asked = Prompt(f"Where is the {thing.kind}?", {"scene": scene, "boxes": [box]}, tuple(render.pixels([scene])))
        return {"prompt": asked, "sample": f"[{','.join(map(str, box))}]"}


def edges(thing: Thing) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a thing, in pixels."""
    return thing.x - thing.radius, thing.y - thing.radius, thing.x + thing.radius, thing.y + thing.radius
