"""Denoising: models that turn noise into data step by step, by diffusion or by flow.

A plugin gives an adapter (`DenoisingModel`); `DenoisingPolicy` makes of it a surrogate likelihood, samples, and samples
with gradient. Latents `[B, ...]` are float32 or wider here; only the adapter knows the network's own precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmalign.maths.paths import Path
from mmalign.processes.policy import Adapter, AdapterPolicy, evaluating
from mmalign.records import Draw, LogProbs, Media, Prompt, Samples
from mmalign.samplers import gradient, ode
from mmalign.samplers.guidance import Condition, Denoise, classifier_free


class DenoisingModel(Adapter, Protocol):
    """What a plugin's adapter gives."""

    @property
    def path(self) -> Path:
        """How data and noise are mixed, and what `predict` predicts."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample's latents."""
        ...

    def condition(self, texts: Sequence[str]) -> Condition:
        """What the network is told for these prompts: named tensors, batch first, without gradient."""
        ...

    def unconditional(self, n: int) -> Condition | None:
        """The same for `n` empty prompts, for guidance; None when guidance is baked into the network."""
        ...

    def predict(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The network's output for latents `x` at the path's times `t` `[B]`, float32 or wider."""
        ...

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """Media as `[B, C, H, W]` in [0, 1] at the model's size. Raises UserError that names an unreadable one."""
        ...

    def encode(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Latents, one draw of the encoder's posterior, scaled as the network knows them."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels `[B, C, H, W]` in [0, 1], differentiable where not clamped."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Data as the network sees it: `latents` `[B, ...]` and the `condition` of their prompts."""

    latents: Tensor
    condition: Condition


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    steps: N, how often the network is asked for one sample.
    guidance_scale: w of classifier-free guidance; 1 is none.
    eta: η of DDIM: 0 is deterministic, 1 draws as much noise as DDPM. Flow models take 0 only.
    """

    steps: PositiveInt = 50
    guidance_scale: NonNegativeFloat = 5.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0


# Within the policy its own attribute hides the class of that name.
_Sampling = Sampling


class DenoisingPolicy(AdapterPolicy[DenoisingModel]):
    """A denoising model as objectives see it.

    Random numbers come from generators on the CPU, so that they are the same on every device.

    gradient_checkpointing: `differentiate` computes each prediction and the decoder again in the backward pass, to keep
        less of them until then.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"likelihood", "divergence", "differentiable"})
    Sampling = _Sampling

    def __init__(self, model: DenoisingModel, sampling: _Sampling, gradient_checkpointing: bool = False):
        self.model = model
        self.sampling = sampling
        self.gradient_checkpointing = gradient_checkpointing

    # ---- samples

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt. Each depends on its own prompt and seed alone, not on the batch around it."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> Tensor:
            drawn = [torch.randn(self.model.latent_shape, generator=generator) for generator in generators]
            return torch.stack(drawn).to(self.model.device)

        path, grid = self.model.path, self.model.path.grid(self.sampling.steps)
        with evaluating(self.network):
            latents = ode.ddim(self._guided(prompts), path, noise(), grid, self.sampling.eta, noise)
            return Samples(prompts, self.model.decode(latents), seeds)

    def differentiate(self, prompts: Sequence[Prompt], plan: gradient.Plan, rng: torch.Generator) -> Samples:
        """Samples whose media carry gradient to the weights, as `plan` says.

        With re-noising there are `(1 + plan.renoise) B` of them: all prompts, then all prompts again.
        """
        shape = (len(prompts), *self.model.latent_shape)

        def noise() -> Tensor:
            return torch.randn(shape, generator=rng).to(self.model.device)

        path, grid = self.model.path, self.model.path.grid(self.sampling.steps)
        denoise, decode = self._recomputed(self._guided(prompts)), self._recomputed(self.model.decode)
        latents = gradient.ddim(denoise, path, noise(), grid, plan, self.sampling.eta, noise)
        return Samples(list(prompts) * (1 + plan.renoise), decode(latents))

    # ---- likelihood

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], rng: torch.Generator) -> Encoded:
        """Data as the network sees it, one sample a prompt."""
        latents = self.model.encode(self.model.pixels(media), rng)
        return Encoded(latents, self._condition(prompts))

    def draw(self, encoded: Encoded, rng: torch.Generator, copies: int = 1) -> Draw:
        """Times and noise for `encoded`, whose batch is `copies` batches one after the other that share them."""
        n = len(encoded.latents) // copies
        t = self.model.path.draw_times(n, rng)
        noise = torch.randn((n, *encoded.latents.shape[1:]), generator=rng)
        device = encoded.latents.device
        return Draw(torch.cat([t] * copies).to(device), torch.cat([noise] * copies).to(device))

    def log_likelihood(self, encoded: Encoded, draw: Draw) -> LogProbs:
        """The surrogate log-likelihood at a draw, `[B, 1]`: -½ mean over dimensions of (output - target)²."""
        target = self.model.path.target(encoded.latents, draw.noise, draw.t)
        values = -0.5 * _mean_square(self._predict(encoded, draw) - target)[:, None]
        return LogProbs(values, torch.ones_like(values))

    def drift(self, encoded: Encoded, draw: Draw) -> Tensor:
        """How far the weights moved the prediction at a draw, `[B]`: mean over dimensions of (output - reference)²."""
        with torch.no_grad(), self.reference():
            reference = self._predict(encoded, draw)
        return _mean_square(self._predict(encoded, draw) - reference)

    def divergence(self, encoded: Encoded, draw: Draw) -> LogProbs:
        """KL(reference ‖ policy) of the surrogates at a draw `[B, 1]`: Gaussians of one width, whose KL is half the drift."""
        values = self.drift(encoded, draw)[:, None] / 2
        return LogProbs(values, torch.ones_like(values))

    # ---- inside

    def _predict(self, encoded: Encoded, draw: Draw) -> Tensor:
        x_t = self.model.path.add_noise(encoded.latents, draw.noise, draw.t)
        return self.model.predict(x_t, draw.t, encoded.condition)

    def _guided(self, prompts: Sequence[Prompt]) -> Denoise:
        scale = self.sampling.guidance_scale
        unconditional = self.model.unconditional(len(prompts)) if scale != 1 else None
        return classifier_free(self.model.predict, self._condition(prompts), unconditional, scale)

    def _condition(self, prompts: Sequence[Prompt]) -> Condition:
        """Each distinct text is encoded once, so that both sides of a pair are told the very same."""
        distinct = {prompt.text: None for prompt in prompts}
        rows = {text: row for row, text in enumerate(distinct)}
        index = torch.tensor([rows[prompt.text] for prompt in prompts], device=self.model.device)
        return {name: value[index] for name, value in self.model.condition(list(distinct)).items()}

    def _recomputed(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, under gradient checkpointing if the run wants it."""
        return partial(checkpoint, function, use_reentrant=False) if self.gradient_checkpointing else function


def _mean_square(difference: Tensor) -> Tensor:
    """`[B]`: the mean of squares over all dimensions but the batch."""
    return (difference**2).flatten(1).mean(dim=1)
