"""Questions where a thing is, with its box: for rewards that are rules, as in Visual-RFT.

    Where is the red circle?        [1,2,4,5]

Coordinates x1, y1, x2, y2 count the picture's columns and rows, from 0 to `grid`; the right ones are rounded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import NonNegativeFloat, PositiveInt

from mmalign.records import Prompt
from mmalign_shapes import render
from mmalign_shapes.images import ShapesImages
from mmalign_shapes.scenes import SIZE, Thing


class ShapesLocalisation(ShapesImages):
    """Pictures of two to four things with a question about one of them; the sample is its box. For `sft`, and for objectives on
    rollouts, whose rewards find the box in the prompt's metadata, as `boxes`.

    split: "train" or "held-out"; a combination of things is in one of them only. size: how many. seed: which ones.
    grid: how many columns and rows coordinates count; 64 is pixels.
    jitter: deviation of each edge of the samples' boxes, in pixels, as of people who draw boxes roughly; `boxes` stay right.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 512,
        seed: int = 0,
        grid: PositiveInt = 8,
        jitter: NonNegativeFloat = 0.0,
    ):
        super().__init__(split, size, seed)
        self._grid, self._jitter = grid, jitter

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        scene = self._scenes[index]
        rng = self._rng(index)
        thing = rng.choice(scene.things)
        box = self._counted(edges(thing))
        x1, y1, x2, y2 = self._counted([edge + rng.gauss(0, self._jitter) for edge in edges(thing)])
        said = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        asked = Prompt(f"Where is the {thing.kind}?", {"scene": scene, "boxes": [box]}, tuple(render.pixels([scene])))
        return {"prompt": asked, "sample": f"[{','.join(map(str, said))}]"}

    def _counted(self, edges: Sequence[float]) -> list[int]:
        return [round(self._grid * min(max(edge, 0), SIZE) / SIZE) for edge in edges]


def edges(thing: Thing) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a thing, in pixels."""
    return thing.x - thing.radius, thing.y - thing.radius, thing.x + thing.radius, thing.y + thing.radius
