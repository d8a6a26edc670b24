"""Scenes and captions to learn from, cached as tensors; what all training here shares."""

import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmalign_shapes import grammar, render
from mmalign_shapes.grammar import Caption
from mmalign_shapes.scenes import draw_scene

T = TypeVar("T")

_COUNTS = (1, 2, 2, 2, 2, 2, 2, 2, 2, 3)
"""How many things a scene has: mostly two, as in the prompts."""


@dataclass(frozen=True)
class World:
    """Pictures `[N, 3, 64, 64]` as bytes, and what each shows."""

    pictures: Tensor
    captions: list[Caption]

    def __len__(self) -> int:
        return len(self.captions)


def make_world(size: int, seed: int) -> World:
    """Draw `size` scenes."""
    rng = random.Random(seed)
    scenes = [draw_scene(rng, rng.choice(_COUNTS)) for _ in range(size)]
    chunks = [render.pixels(scenes[i : i + 500]) for i in track(range(0, size, 500), "drawing scenes", size // 500)]
    pictures = (torch.cat(chunks) * 255).round().to(torch.uint8)
    return World(pictures, [grammar.caption_of(scene) for scene in scenes])


def batches(size: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of indices below `size`, reshuffled each epoch."""
    generator = torch.Generator().manual_seed(seed)
    order, position = torch.randperm(size, generator=generator), 0
    for _ in range(steps):
        if position + batch_size > size:
            order, position = torch.randperm(size, generator=generator), 0
        yield order[position : position + batch_size]
        position += batch_size


def track(turns: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Go through `turns`, saying now and then how far it is."""
    start = time.perf_counter()
    for done, turn in enumerate(turns, start=1):
        yield turn
        if done % max(1, total // 20) == 0:
            each = (time.perf_counter() - start) / done
            print(f"{what}: {done}/{total}, {each:.2f} s each, {each * (total - done) / 60:.0f} min left", flush=True)


def floats(pictures: Tensor) -> Tensor:
    """Bytes to [0, 1]."""
    return pictures.float() / 255


def write_figures(folder: Path, figures: dict[str, Any]) -> None:
    """What was measured, beside the weights."""
    (folder / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
