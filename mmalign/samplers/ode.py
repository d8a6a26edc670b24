"""Sampling from noise to data along a grid of times."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from mmalign.maths.paths import Path
from mmalign.maths.transitions import ddim_step
from mmalign.samplers.guidance import Denoise


def ddim(
    denoise: Denoise, path: Path, x: Tensor, grid: Tensor, eta: float = 0.0, noise: Callable[[], Tensor] | None = None
) -> Tensor:
    """DDIM on a VP path, Euler's method on a flow path. Returns the clean latents, `[B, ...]`.

    x: where to start, `[B, ...]`, standard normal.
    grid: `[N + 1]` descending times, see `Path.grid`.
    noise: gives z like `x` for each step; asked only when `eta` is above 0.
    """
    for t, t_next in times(grid, x):
        z = noise() if noise is not None and eta > 0 else None
        x = ddim_step(path, x, t, t_next, denoise(x, t), eta, z)
    return x


def times(grid: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each step's `(t, t_next)`, both `[B]` on the device of `x`."""
    for t, t_next in pairwise(grid.to(x.device)):
        yield t.expand(len(x)), t_next.expand(len(x))
