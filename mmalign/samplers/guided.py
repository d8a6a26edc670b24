"""Sampling that a reward guides, without training anything.

The reward's gradient is added to the score, after classifier-free guidance:

    score' = score + w ∇_x r(x_t, t),    so    noise' = noise - w s_t ∇r,    x0' = x0 + w s_t² / a_t ∇r

which at fixed x_t is one prediction again. On a flow path it is the v - w t / (1 - t) ∇r of Flow-NRG (Liu et al. 2025,
arXiv:2501.13918). Pure noise (a_t = 0) is left alone, for there the step would be infinite.

The samples then follow p(x0) exp(w r) where r(x_t, t) is the reward of what x_t becomes, log E exp(w r(x0)) / w; a reward of
noisy latents has to be trained for that (`of_noisy`). One of clean data is asked about the network's estimate of x0
(`of_clean`; universal guidance, Bansal et al. 2023, arXiv:2302.07121), which is near enough where w is small.

A gradient that is not finite leads nowhere: that sample's step is a plain one, and it is counted (`bounded`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from mmalign.maths.paths import Path
from mmalign.records import Prompt, Samples, Scores
from mmalign.samplers.guidance import Denoise

Reward = Callable[[Samples], Scores]

Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(x [B, ...], t [B])` -> the network's output there and the reward's gradient to `x`, both `[B, ...]`."""


def guided(path: Path, denoise: Denoise, slope: Slope, weight: float) -> Denoise:
    """The network's output under guidance. weight: w, at which the reward counts against how likely a sample is."""

    def shifted(x: Tensor, t: Tensor) -> Tensor:
        a, s = path.coefficients_like(t, x)
        if not (a > 0).any():
            return denoise(x, t)
        output, gradient = slope(x, t)
        push = torch.where(a > 0, weight * gradient, 0)
        x0, noise = path.split(x, t, output)
        return path.target(x0 + s**2 / a.clamp_min(1e-12) * push, noise - s * push, t)

    return shifted


@dataclass
class Tally:
    """Gradients that were asked for, one a sample and step; those that were not finite, and those that were too long."""

    asked: int = 0
    unusable: int = 0
    clipped: int = 0

    def drain(self) -> list[str]:
        """In sentences what went wrong since the last drain."""
        told = [
            (self.unusable, "were not finite; these steps were not led"),
            (self.clipped, "were longer than max_norm and were clipped"),
        ]
        found = [f"{count} of {self.asked} gradients of the reward {what}" for count, what in told if count]
        self.asked = self.unusable = self.clipped = 0
        return found


def bounded(slope: Slope, tally: Tally, max_norm: float | None = None) -> Slope:
    """A slope whose gradients are finite, 0 where they were not, and of each sample no longer than `max_norm`."""

    def within(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        output, gradient = slope(x, t)
        norms = gradient.flatten(1).norm(dim=1)
        usable = norms.isfinite()
        factor = torch.ones_like(norms) if max_norm is None else (max_norm / norms).clamp(max=1)
        tally.asked += len(norms)
        tally.unusable += int((~usable).sum())
        tally.clipped += int((usable & (factor < 1)).sum())
        shape = [-1] + [1] * (gradient.ndim - 1)
        return output, torch.where(usable.reshape(shape), gradient * factor.reshape(shape), 0)

    return within


def of_noisy(denoise: Denoise, reward: Callable[[Tensor, Tensor], Tensor]) -> Slope:
    """reward: of noisy latents and their times, `[B]`. No gradient flows through the network."""

    def slope(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(reward(place, t).sum(), place)
        return denoise(x, t), gradient

    return slope


def of_clean(denoise: Denoise, path: Path, reward: Callable[[Tensor], Tensor]) -> Slope:
    """reward: of clean latents, `[B]`. The gradient flows through the network."""

    def slope(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            output = denoise(place, t)
            (gradient,) = torch.autograd.grad(reward(path.split(place, t, output)[0]).sum(), place)
        return output.detach(), gradient

    return slope


def best_of(n: int, policy: Any, reward: Reward, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
    """Of `n` samples of each prompt the one that the reward likes best; one without a score only if none has any.

    The first of them is drawn from the prompt's own seed, so that the best of 1 is what `policy.sample` gives. As many are drawn
    at a time as there are prompts, those of one prompt together, which a model may then read once; or one of each, where the
    reward `compares` what is scored together.
    """
    best: dict[int, tuple[float, Samples]] = {}
    tries = [(k, i) for i in range(len(prompts)) for k in range(n)]
    if getattr(reward, "compares", False):
        tries.sort()
    for start in range(0, len(tries), len(prompts)):
        some = tries[start : start + len(prompts)]
        drawn: Samples = policy.sample([prompts[i] for _, i in some], [another(seeds[i], k) for k, i in some])
        for row, ((_, i), score) in enumerate(zip(some, _scores(reward, drawn).tolist(), strict=True)):
            if i not in best or score > best[i][0]:
                best[i] = score, drawn.picked([row])
    return Samples.joined([best[i][1] for i in range(len(prompts))])


class RewardGradient:
    """The gradient of the rewards' weighted sum is added to the score at every step, as the module says; a weight is w."""

    def __init__(self) -> None:
        self._tally = Tally()

    def __call__(self, policy: Any, reward: Reward, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt, of a policy that is `guided`."""
        samples: Samples = policy.guided(prompts, seeds, reward, 1.0, self._tally)
        return samples

    def warnings(self) -> list[str]:
        """What went wrong since this was asked last."""
        return self._tally.drain()


class BestOfN:
    """Of several samples of each prompt the one whose weighted sum of rewards is highest.

    n: how many there are to choose from. KL to plain sampling is log n - (n - 1) / n at most.
    """

    def __init__(self, n: PositiveInt = 4):
        self.n = n

    def __call__(self, policy: Any, reward: Reward, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt."""
        return best_of(self.n, policy, reward, prompts, seeds)


def _scores(reward: Reward, samples: Samples) -> Tensor:
    return reward(samples).values.detach().nan_to_num(nan=-torch.inf)


def another(seed: int, i: int) -> int:
    """The seed of a prompt's further samples: far from those that others are likely to have."""
    return (seed + i * 0x9E3779B97F4A7C15) % 2**63
