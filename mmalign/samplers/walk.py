"""Sampling from noise to data along a grid of times."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.paths import Path
from mmalign.maths.transitions import ODE, Sde, Transition, step
from mmalign.samplers.guidance import Denoise

Noise = Callable[[Tensor], Tensor]
"""Which samples draw, `[B]` bool -> standard normal noise like the latents for these, and anything for the others."""

Trajectory = Mapping[str, Tensor]
"""The noisy steps of one sample, in a row: "latents" `[U + 1, ...]`, before the first step and after each; "steps" `[U]`,
which of the sampler's steps they are."""


@dataclass(frozen=True)
class Step:
    """`x_next` `[B, ...]` was drawn from `transition`."""

    transition: Transition
    x_next: Tensor


def walk(
    denoise: Denoise, path: Path, x: Tensor, grid: Tensor, noisy: Tensor, sde: Sde = ODE, noise: Noise | None = None
) -> Iterator[Step]:
    """The steps of a sampler, one after the other; the last `x_next` is clean.

    x: where to start, `[B, ...]`, standard normal.
    grid: `[N + 1]` descending times, see `Path.grid`.
    noisy: `[B, N]`, which steps of which sample draw noise; the others are deterministic.
    noise: asked at each step at which any sample draws.
    """
    for (t, t_next), draws in zip(times(grid, x), noisy.unbind(dim=1), strict=True):
        transition = step(path, x, t, t_next, denoise(x, t), sde, draws)
        x = transition.draw(noise(draws)) if noise is not None and draws.any() else transition.mean
        yield Step(transition, x)


def end(steps: Iterable[Step]) -> Tensor:
    """The clean latents `[B, ...]` to which the steps lead. Keeps none of the others."""
    (last,) = deque(steps, maxlen=1)
    return last.x_next


def trajectories(latents: Sequence[Tensor], noisy: Tensor) -> list[Trajectory]:
    """By sample. latents: `[B, ...]` before the first step and after each of N. noisy: `[B, N]`, in a row for each sample."""
    found: list[Trajectory] = []
    for row, steps in enumerate(mask.nonzero()[:, 0] for mask in noisy):
        passed = latents[int(steps[0]) : int(steps[-1]) + 2]
        found.append({"latents": torch.stack([one[row] for one in passed]), "steps": steps})
    return found


def noisy_steps(path: Path, grid: Tensor, sde: Sde) -> Tensor:
    """`[N]`: which steps draw noise: none at η = 0, and never one onto clean data."""
    return sde.spread(path, grid[:-1], grid[1:])[1] > 0


def trained_steps(noisy: Tensor) -> Tensor:
    """`[..., N]`: which of the noisy steps are units of a rollout: all but the last one of the sampler.

    On a path that ends at ᾱ_0 the last step draws, too, but with a deviation of some hundredths: nobody sees what it drew, while
    the gradient of its log-probability, which goes with 1 / σ, would outweigh that of all others.
    """
    last = torch.arange(noisy.shape[-1], device=noisy.device) == noisy.shape[-1] - 1
    return noisy & ~last


def windows(noisy: Tensor, size: int, generators: list[torch.Generator]) -> Tensor:
    """`[B, N]`: of each sample `size` steps in a row, at a place that its own generator draws. `noisy`: `[N]`.

    Raises UserError when fewer steps draw noise.
    """
    places = _places(noisy, size)
    return _in_a_row(noisy, size, torch.cat([torch.randint(0, places, (1,), generator=one) for one in generators]))


def window_after(noisy: Tensor, size: int, stride: int, moves: int) -> Tensor:
    """`[N]`: `size` steps in a row, at first the noisiest; each of the `moves` takes them `stride` steps on, and from where
    there is no room for another they are the noisiest again. Raises UserError when fewer steps draw noise.
    """
    starts = range(0, _places(noisy, size), stride)
    return _in_a_row(noisy, size, torch.tensor([starts[moves % len(starts)]]))[0]


def _places(noisy: Tensor, size: int) -> int:
    """How many places there are for a window."""
    count = int(noisy.sum())
    if not 1 <= size <= count:
        raise UserError(f"sampling.window: {size} steps that draw noise, but only {count} of {len(noisy)} do")
    return count - size + 1


def _in_a_row(noisy: Tensor, size: int, starts: Tensor) -> Tensor:
    """`[B, N]`: the `size` steps from `starts` `[B]` on, counted from the first that draws noise."""
    places = torch.arange(len(noisy), device=noisy.device) - noisy.int().argmax() - starts.to(noisy.device)[:, None]
    return (places >= 0) & (places < size)


def times(grid: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each step's `(t, t_next)`, both `[B]` on the device of `x`."""
    for t, t_next in pairwise(grid.to(x.device)):
        yield t.expand(len(x)), t_next.expand(len(x))
