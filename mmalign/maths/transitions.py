"""One step of a sampler, from `x_t` to `x_t'` with t' < t: a Gaussian around what the network makes of `x_t`.

    x_t' ~ N(a_t' x0 + k noise, σ²),    x0 and noise as the network sees them at x_t

Every sampler draws σ anew and keeps k of the noise that is there; they differ in how much (η) and in what k gives for it:

    ddim        σ² = η² (1 - ᾱ_t') / (1 - ᾱ_t) (1 - ᾱ_t / ᾱ_t')    k = sqrt(s_t'² - σ²)     arXiv:2010.02502
    cps         σ² = t'² sin²(η π/2)                               k = sqrt(t'² - σ²)       arXiv:2509.05952
    flow-grpo   σ² = η² t / (1 - t) (t - t')                       k = t' - σ² / (2t)       arXiv:2505.05470
    dance-grpo  σ² = η² (t - t')                                   k = t' - σ² / (2t)       arXiv:2505.07818

The first is for VP paths, where η = 1 has the variance of the DDPM posterior; the others are for flows. The last two are
steps of the stochastic differential equation that has the flow's marginals, dx = v dt - ½ g² score dt + g dw, backwards in
time with g² = σ² / (t - t'), in the same letters. η = 0 is the deterministic sampler, on a flow path Euler's method.

Where it differs:
1. At t = 1 flow-grpo divides by 1 - t', as its code does.
2. No step onto clean data draws noise. Flow-GRPO draws it there too, but does not train that step; nor is one onto ᾱ_0, which
   does draw, trained here (`mmalign.samplers.walk.trained_steps`).
3. Log-probabilities are those of the Gaussian for all kinds. The code of CPS leaves σ out of its own: where it clips at ε,
   clip at ε / (2σ²).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.paths import VP, Path, expand

Kind = Literal["ddim", "cps", "flow-grpo", "dance-grpo"]


@dataclass(frozen=True)
class Transition:
    """The distribution of `x_t'`: N(mean, std²), independent in each dimension.

    mean: `[B, ...]`. std: `[B, 1, ...]`; where it is 0 the step is deterministic and has no log-probability.
    """

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """`x_t'` for standard normal `noise`."""
        return self.mean + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """`[B]`: log N(x; mean, std²), the mean over dimensions.

        The density's is their sum. All published code takes the mean, and clip ranges and β are made for it.
        """
        deviations = (x - self.mean) / self.std
        return (-0.5 * deviations**2 - self.std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).mean(dim=1)

    def kl(self, other: "Transition") -> Tensor:
        """`[B]`: KL(self ‖ other), both of the same std, the mean over dimensions: (mean - mean')² / (2 std²)."""
        return (0.5 * ((self.mean - other.mean) / self.std) ** 2).flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Steps:
    """U steps of B samples that were taken, as one model sees them.

    log_probs: of each step `[B, U]`. means `[B, U, ...]` and stds `[B, U]`: what they are drawn from. falls: by how much each
    lowers the noise level s, `[B, U]`; on a flow it is |dt|.
    """

    log_probs: Tensor
    means: Tensor
    stds: Tensor
    falls: Tensor


@dataclass(frozen=True)
class Sde:
    """How much noise a sampler's steps draw. eta: η in [0, 1]. kind: a line of the table above."""

    eta: float = 0.0
    kind: Kind = "ddim"

    def spread(self, path: Path, t: Tensor, t_next: Tensor, noisy: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k and σ, `[B]`. noisy: `[B]`, False where a step is to be deterministic though η is above 0."""
        (a, s), (a_next, s_next) = path.coefficients(t), path.coefficients(t_next)
        draws = s_next > 0 if noisy is None else noisy & (s_next > 0)
        variance = torch.where(draws, _VARIANCES[self.kind](self.eta, a, s, a_next, s_next), 0.0)
        # Rounding may bring the difference below zero where σ takes all of s_next.
        preserving = (s_next**2 - variance).clamp_min(0).sqrt()
        kept = preserving if self.kind in ("ddim", "cps") else s_next - variance / (2 * s)
        # Squares and roots must not round what deterministic steps keep.
        return torch.where(variance > 0, kept, s_next), variance.sqrt()


ODE = Sde()


def sde(path: Path, eta: float, kind: Kind | None = None) -> Sde:
    """The path's own kind unless one is named. Raises UserError for a kind that is not for this path."""
    kinds = get_args(Kind)[:1] if isinstance(path, VP) else ("flow-grpo", "dance-grpo", "cps")
    if kind is not None and kind not in kinds:
        raise UserError(f"sampling.sde: '{kind}' is not for this model, whose noise is drawn by {' or '.join(kinds)}")
    return Sde(eta, kind or kinds[0])


def step(
    path: Path, x_t: Tensor, t: Tensor, t_next: Tensor, output: Tensor, sde: Sde = ODE, noisy: Tensor | None = None
) -> Transition:
    """Where `x_t'` lies, `[B, ...]`, differentiable in `x_t` and in the network's `output`.

    t, t_next: `[B]`. noisy: as in `Sde.spread`.
    """
    # Coefficients are as precise as what is stored of the step, so that a replay computes the same.
    x_t = x_t.to(torch.promote_types(x_t.dtype, output.dtype))
    x0, noise = path.split(x_t, t, output)
    a_next, _ = path.coefficients_like(t_next, x_t)
    kept, drawn = (expand(coefficient, x_t) for coefficient in sde.spread(path, t, t_next, noisy))
    return Transition(a_next * x0 + kept * noise, drawn)


def _ddim(eta: float, a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
    return (eta * s_next / s) ** 2 * (1 - (a / a_next) ** 2).clamp_min(0)


def _cps(eta: float, a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
    return (s_next * math.sin(eta * math.pi / 2)) ** 2


def _flow_grpo(eta: float, a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
    return eta**2 * s / torch.where(a > 0, a, a_next) * (s - s_next)


def _dance_grpo(eta: float, a: Tensor, s: Tensor, a_next: Tensor, s_next: Tensor) -> Tensor:
    return eta**2 * (s - s_next)


_VARIANCES: dict[Kind, Callable[[float, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "ddim": _ddim,
    "cps": _cps,
    "flow-grpo": _flow_grpo,
    "dance-grpo": _dance_grpo,
}
"""σ² of each kind, for η, a_t, s_t, a_t', s_t'; on a flow path s is t and a is 1 - t."""
