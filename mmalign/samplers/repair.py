"""Drawing again what is wrong with a sample, and nothing else, without training. VideoRepair, Lee et al. 2024, arXiv:2411.15115.

1. evaluate   a reward scores the sample; one that is good enough is done
2. localise   the reward tells what may stay, m = `Scores.places`
3. redraw     outside of m from new noise; within m the network's estimate of x0 is what was drawn before,

    x0' = m x0_old + (1 - m) x0(x_t),    x_T = m noise_old + (1 - m) noise_new

so that what stays follows its old noise straight back to where it was, and what is new is drawn to fit it. Of several, the sample
that scores highest is kept, the old one among them; so no score falls.

Where it differs: the paper's questions, plan and masks (by a language model, points and a segmenter) are the reward's; the new
part is drawn from the same prompt, the paper rewrites it; and what stays is held at every step, the paper blends noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mmalign.errors import UserError
from mmalign.maths.paths import Path
from mmalign.records import Prompt, Samples
from mmalign.samplers.guidance import Denoise
from mmalign.samplers.guided import Reward, another


def holding(denoise: Denoise, path: Path, known: Tensor, keep: Tensor) -> Denoise:
    """The network's output whose estimate of x0 is `known` where `keep` is 1. known: `[B, ...]`. keep: may be broadcast to it."""

    def held(x: Tensor, t: Tensor) -> Tensor:
        x0, _ = path.split(x, t, denoise(x, t))
        a, s = path.coefficients_like(t, x)
        mixed = keep * known + (1 - keep) * x0
        return path.target(mixed, (x - a * mixed) / s, t)

    return held


def of_latents(places: Tensor, shape: Sequence[int]) -> Tensor:
    """m of latents whose shape ends in height and width, `[B, 1, ..., h, w]`: 1 only where every pixel may stay."""
    height, width = shape[-2:]
    wrong = adaptive_avg_pool2d((places < 1).float()[:, None], (height, width))
    return (wrong == 0).float().reshape(len(places), *(1 for _ in shape[:-2]), height, width)


@dataclass(frozen=True)
class Drawn:
    """One sample, the latents `[1, ...]` that it is made of, its score, and where it may stay `[1, H, W]`."""

    samples: Samples
    latents: Tensor
    score: float
    places: Tensor


class Repair:
    """What is wrong with a sample is drawn again, and what the rewards would keep stays.

    enough: a score that needs no repair. rounds: how often the best sample so far is repaired. candidates: how many repairs are
        drawn in each.
    """

    def __init__(self, enough: float = 1.0, rounds: PositiveInt = 1, candidates: PositiveInt = 4):
        self.enough = enough
        self.rounds = rounds
        self.candidates = candidates

    def __call__(self, policy: Any, reward: Reward, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt. Raises UserError where no reward tells what may stay."""
        found = [self._repaired(policy, reward, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return replace(Samples.joined(found), prompts=prompts, seeds=seeds)

    def _repaired(self, policy: Any, reward: Reward, prompt: Prompt, seed: int) -> Samples:
        (best,) = _judged(reward, *policy.drawn([prompt], [seed]))
        for i in range(self.rounds):
            if best.score >= self.enough:
                break
            others = [another(seed, 1 + i * self.candidates + j) for j in range(self.candidates)]
            keep = of_latents(best.places, best.latents.shape[1:])
            n = len(others)
            tried = _judged(reward, *policy.redrawn([prompt] * n, [seed] * n, others, best.latents, keep))
            best = max([best, *tried], key=lambda one: one.score)
        return best.samples


def _judged(reward: Reward, samples: Samples, latents: Tensor) -> list[Drawn]:
    """Each sample by itself; one without a score is worse than any other."""
    scores = reward(samples)
    if scores.places is None:
        raise UserError(
            "guidance: repair asks the rewards what of a sample may stay, and none of these tells: name one that does"
        )
    values = scores.values.nan_to_num(nan=-torch.inf).tolist()
    rows = [slice(i, i + 1) for i in range(len(samples))]
    return [Drawn(samples[i], latents[i], value, scores.places[i]) for i, value in zip(rows, values, strict=True)]
