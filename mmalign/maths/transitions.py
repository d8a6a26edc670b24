"""One step of a sampler, from `x_t` to `x_t'` with t' < t.

DDIM (Song et al. 2020, arXiv:2010.02502), with x0 and noise as the network sees them at `x_t`:

    x_t' = a_t' x0 + sqrt(s_t'² - σ²) noise + σ z
    σ²   = η² (1 - ᾱ_t') / (1 - ᾱ_t) (1 - ᾱ_t / ᾱ_t')

η = 0 is the deterministic sampler, on a flow path the Euler step; η = 1 has the variance of the DDPM posterior.
"""

from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.paths import VP, Path, expand


def ddim_step(
    path: Path, x_t: Tensor, t: Tensor, t_next: Tensor, output: Tensor, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """`x_t'` `[B, ...]`, differentiable in `x_t` and in the network's `output`.

    t, t_next: `[B]`.
    eta: η in [0, 1]; above 0 on a VP path only.
    noise: z, like `x_t`; without it the mean of the step comes back.
    """
    x0, noise_hat = path.split(x_t, t, output)
    a_next, s_next = path.coefficients_like(t_next, x_t)
    if eta == 0:
        return a_next * x0 + s_next * noise_hat
    sigma = eta * expand(ddim_sigma(path, t, t_next), x_t)
    # Rounding may bring the difference below zero where sigma takes all of s_next.
    mean = a_next * x0 + (s_next**2 - sigma**2).clamp_min(0).sqrt() * noise_hat
    return mean if noise is None else mean + sigma * noise


def ddim_sigma(path: Path, t: Tensor, t_next: Tensor) -> Tensor:
    """σ at η = 1, `[B]`. Raises UserError for a path that is not VP."""
    if not isinstance(path, VP):
        raise UserError("sampling.eta: this is a flow model, whose sampler draws no noise: set it to 0")
    (a, s), (a_next, s_next) = path.coefficients(t), path.coefficients(t_next)
    return s_next / s * (1 - (a / a_next) ** 2).clamp_min(0).sqrt()
