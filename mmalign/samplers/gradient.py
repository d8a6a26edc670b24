"""Sampling with gradient. A plan says which of the sampler's steps carry it; all others run without.

Steps are counted from 0 (pure noise) to N-1 (the last one, whose result is clean).
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.maths.paths import Path
from mmalign.maths.transitions import Sde, Transition, step
from mmalign.samplers.guidance import Denoise
from mmalign.samplers.walk import times


@dataclass(frozen=True)
class Plan:
    """Where the gradient of a sample flows.

    trained: the steps whose prediction carries gradient.
    detach_input: predictions carry no gradient to their input `x_t`; what remains flows along the affine sampler.
    stop: the step at which to read off x0 and end; None goes on to the clean end.
    renoise: how often the finished sample is noised to the last step's time again and denoised with gradient.
    """

    trained: frozenset[int]
    detach_input: bool = False
    stop: int | None = None
    renoise: int = 0


def last(steps: int, k: int, renoise: int = 0) -> Plan:
    """The last `k` of `steps` steps."""
    return Plan(frozenset(range(steps - k, steps)), renoise=renoise)


def one(step: int) -> Plan:
    """A single step, at which x0 is read off."""
    return Plan(frozenset({step}), stop=step)


def spaced(steps: int, k: int, early: int, first: int) -> Plan:
    """`k` equally spaced steps from `first` on, without gradient to inputs; x0 is read off `early` steps before the last."""
    stop = steps - 1 - early
    trained = frozenset(step for step in range(first, stop + 1, steps // k) if step < first + k * (steps // k))
    return Plan(trained, detach_input=True, stop=stop)


def ddim(
    denoise: Denoise, path: Path, x: Tensor, grid: Tensor, plan: Plan, sde: Sde, noise: Callable[[], Tensor]
) -> Tensor:
    """Clean latents with gradient, `[(1 + renoise) B, ...]`: the samples, then each re-noised batch.

    x: where to start, `[B, ...]`, standard normal.
    grid: `[N + 1]` descending times, see `Path.grid`.
    noise: gives standard normal noise like `x`; asked for each step when `sde` draws any, and for each re-noising.
    """
    for i, (t, t_next) in enumerate(times(grid, x)):
        with nullcontext() if i in plan.trained else torch.no_grad():
            output = denoise(x.detach() if plan.detach_input else x, t)
        if i == plan.stop:
            return path.split(x, t, output)[0]
        x = _drawn(step(path, x, t, t_next, output, sde), sde, noise)
    return torch.cat([x, *(_again(denoise, path, x, grid, sde, noise) for _ in range(plan.renoise))])


def _again(denoise: Denoise, path: Path, x0: Tensor, grid: Tensor, sde: Sde, noise: Callable[[], Tensor]) -> Tensor:
    """Noise finished samples to the last step's time and denoise them; no gradient flows into how they came to be."""
    ((t, t_next),) = times(grid[-2:], x0)
    x_t = path.add_noise(x0.detach(), noise(), t)
    return _drawn(step(path, x_t, t, t_next, denoise(x_t, t), sde), sde, noise)


def _drawn(transition: Transition, sde: Sde, noise: Callable[[], Tensor]) -> Tensor:
    return transition.draw(noise()) if sde.eta > 0 else transition.mean
