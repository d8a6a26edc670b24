"""Paths between data and noise, and what a network on such a path predicts.

    x_t = a_t x0 + s_t noise

Diffusion (`VP`, a_t² + s_t² = 1) and rectified flow (`Flow`, a_t + s_t = 1) are the same affine family. Outside this
file nobody asks whether a network predicts noise, v, x0 or velocity, or whether time runs to 1 or to 1000.

`B` samples; latents `[B, ...]`; times `t` `[B]` in the path's own units. Everything is computed in float32 or wider.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v", "x0"]
TimeSampling = Literal["uniform", "logit-normal"]


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """`[B]` as `[B, 1, ...]` in the precision of latents `x` `[B, ...]`, but float32 when that is narrower."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return coefficient.to(dtype).reshape(-1, *[1] * (x.dim() - 1))


class Path(ABC):
    """How clean data and noise are mixed at time t, and what the network should say about the mixture.

    prediction: the name of what the network predicts.
    """

    prediction: str

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`a_t` and `s_t`, each `[B]`."""

    @abstractmethod
    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """`[n]` times as they are drawn in training, on the generator's device."""

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """`[steps + 1]` descending times of a sampler; the last one is clean."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at `x_t`."""

    @abstractmethod
    def split(self, x_t: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The clean data and the noise that a prediction makes of `x_t`."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x_t`."""
        a, s = self.coefficients_like(t, x0)
        return a * x0 + s * noise

    def coefficients_like(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """`a_t` and `s_t` as `[B, 1, ...]`, to be multiplied with latents `x`."""
        a, s = self.coefficients(t)
        return expand(a, x), expand(s, x)


class VP(Path):
    """Variance-preserving diffusion (DDPM, DDIM): a_t = sqrt(ᾱ_t), s_t = sqrt(1 - ᾱ_t).

    Times are integers, 0 to T-1, and -1 is clean.

    alphas_cumprod: ᾱ, `[T]`, descending.
    prediction: "epsilon" (the noise), "v" (a_t noise - s_t x0) or "x0".
    final_alpha_cumprod: ᾱ of the clean end; 1, or ᾱ_0 where a sampler stops there.
    timesteps: steps -> `[steps]` descending times of a sampler; evenly spaced from T-1 unless given.
    """

    def __init__(
        self,
        alphas_cumprod: Tensor,
        prediction: str = "epsilon",
        final_alpha_cumprod: float = 1.0,
        timesteps: Callable[[int], Tensor] | None = None,
    ):
        if prediction not in get_args(Prediction):
            raise ValueError(f"a VP path predicts one of {get_args(Prediction)}, not {prediction!r}")
        self.prediction = prediction
        self.timesteps = timesteps or self._evenly
        self.length = len(alphas_cumprod)
        # The clean end stands last, where index -1 finds it.
        self._alphas_cumprod = torch.cat([alphas_cumprod, alphas_cumprod.new_tensor([final_alpha_cumprod])])

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """In the precision of `alphas_cumprod`."""
        self._alphas_cumprod = self._alphas_cumprod.to(t.device)
        alpha_cumprod = self._alphas_cumprod[t]
        return alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """t ~ U{0, ..., T-1}."""
        return torch.randint(0, self.length, (n,), generator=generator, device=generator.device)

    def grid(self, steps: int) -> Tensor:
        """The sampler's timesteps, then -1."""
        timesteps = self.timesteps(steps).long()
        return torch.cat([timesteps, timesteps.new_tensor([-1])])

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """noise, v or x0."""
        a, s = self.coefficients_like(t, x0)
        match self.prediction:
            case "epsilon":
                return noise
            case "v":
                return a * noise - s * x0
            case _:
                return x0

    def split(self, x_t: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and noise."""
        a, s = self.coefficients_like(t, x_t)
        match self.prediction:
            case "epsilon":
                return (x_t - s * output) / a, output
            case "v":
                return a * x_t - s * output, s * x_t + a * output
            case _:
                return output, (x_t - a * output) / s

    def _evenly(self, steps: int) -> Tensor:
        return torch.linspace(self.length, 0, steps + 1)[:-1].round() - 1


class Flow(Path):
    """Rectified flow: x_t = (1 - t) x0 + t noise, t in [0, 1], and the network predicts the velocity noise - x0.

    sigmas: steps -> `[steps]` descending times of a sampler without the final 0; evenly spaced from 1 unless given.
    time_sampling: how times are drawn in training; "logit-normal" is sigmoid(N(0, 1)), as for Stable Diffusion 3.
    """

    prediction = "velocity"

    def __init__(self, sigmas: Callable[[int], Tensor] | None = None, time_sampling: TimeSampling = "uniform"):
        self.sigmas = sigmas or (lambda steps: torch.linspace(1, 0, steps + 1)[:-1])
        self.time_sampling = time_sampling

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t."""
        return 1 - t, t

    def draw_times(self, n: int, generator: torch.Generator) -> Tensor:
        """U(0, 1), or the sigmoid of a normal variable."""
        if self.time_sampling == "uniform":
            return torch.rand(n, generator=generator, device=generator.device)
        return torch.randn(n, generator=generator, device=generator.device).sigmoid()

    def grid(self, steps: int) -> Tensor:
        """The sampler's sigmas, then 0."""
        sigmas = self.sigmas(steps)
        return torch.cat([sigmas, sigmas.new_zeros(1)])

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The velocity, the same at all times."""
        return noise - x0

    def split(self, x_t: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and noise."""
        a, s = self.coefficients_like(t, x_t)
        return x_t - s * output, x_t + a * output
