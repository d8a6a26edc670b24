"""The surrogate likelihood of denoising models: how near a prediction comes at a time and noise that are drawn.

    log p(x0) ≈ -½ mean_D (output_θ(x_t, t) - target)²,    x_t = a_t x0 + s_t noise

What is compared, policy with reference and winner with loser, shares one draw of t and noise (`Draw`). A sample is one unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmalign.maths.paths import Path
from mmalign.processes.encodings import EncodingModel, Encodings
from mmalign.processes.policy import Adapter, AdapterPolicy
from mmalign.records import Compared, Draw, LogProbs, Masked, Media, Prompt
from mmalign.samplers.guidance import Condition


class DenoisingModel(Adapter, EncodingModel, Protocol):
    """What a plugin's adapter gives, its frozen half included."""

    @property
    def path(self) -> Path:
        """How data and noise are mixed, and what `predict` predicts."""
        ...

    @property
    def frame_rate(self) -> float | None:
        """Frames a second of the videos that it makes; None where it makes pictures."""
        ...

    def predict(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The network's output for latents `x` at the path's times `t` `[B]`, float32 or wider."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels as `pixels` gives them, differentiable where not clamped."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Data as the network sees it: `latents` `[B, C, ..., H, W]` and the `condition` of their prompts.

    weights: how much each place of the latents counts, `[B, H, W]`; None where all count alike.
    """

    latents: Tensor
    condition: Condition
    weights: Tensor | None = None

    def mean_square(self, difference: Tensor) -> Tensor:
        """`[B]`: the mean of squares of what has the shape of the latents, over the places that count."""
        squares = (difference**2).flatten(1)
        if self.weights is None:
            return squares.mean(dim=1)
        b, *middle, height, width = difference.shape
        weights = self.weights.reshape(b, *(1 for _ in middle), height, width).expand_as(difference).flatten(1)
        return (squares * weights).sum(dim=1) / weights.sum(dim=1)


class SurrogatePolicy(AdapterPolicy[DenoisingModel]):
    """A denoising model that tells how likely it finds data."""

    encodings: Encodings

    @torch.no_grad()
    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media | Masked], rng: torch.Generator) -> Encoded:
        """Data as the network sees it, one sample a prompt. Under a mask only what it shows counts in a likelihood."""
        shown = [one.media if isinstance(one, Masked) else one for one in media]
        latents = self.encodings.posterior(shown).sample(rng)
        return Encoded(latents, self._condition(prompts), self.encodings.weights(media))

    def draw(self, encoded: Encoded, rng: torch.Generator, copies: int = 1) -> Draw:
        """Times and noise for `encoded`, whose batch is `copies` batches one after the other that share them."""
        n = len(encoded.latents) // copies
        t = self.model.path.draw_times(n, rng)
        noise = torch.randn((n, *encoded.latents.shape[1:]), generator=rng)
        device = encoded.latents.device
        return Draw(torch.cat([t] * copies).to(device), torch.cat([noise] * copies).to(device))

    def log_likelihood(self, encoded: Encoded, draw: Draw) -> LogProbs:
        """The surrogate log-likelihood at a draw, `[B, 1]`: -½ mean over dimensions of (output - target)²."""
        return self._surrogate(encoded, draw, self._predict(encoded, draw))

    def signal(self, draw: Draw) -> Tensor:
        """a_t² at a draw's times, `[B]`: what makes of a squared error of the velocity, or of v, one of the noise."""
        return self.model.path.coefficients(draw.t)[0].float() ** 2

    def drift(self, encoded: Encoded, draw: Draw) -> Tensor:
        """How far the weights moved the prediction at a draw, `[B]`: mean over dimensions of (output - reference)²."""
        ours, reference = self._predictions(encoded, draw)
        return encoded.mean_square(ours - reference)

    def compared(self, encoded: Encoded, draw: Draw) -> Compared:
        """Policy and reference at a draw, by one forward of each.

        The surrogates are Gaussians of one width, so that KL(reference ‖ policy) is half the drift.
        """
        ours, reference = self._predictions(encoded, draw)
        apart = encoded.mean_square(ours - reference)[:, None] / 2
        return Compared(
            self._surrogate(encoded, draw, ours),
            self._surrogate(encoded, draw, reference),
            LogProbs(apart, torch.ones_like(apart)),
        )

    # ---- inside

    def _condition(self, prompts: Sequence[Prompt]) -> Condition:
        return {**self.encodings.condition([prompt.text for prompt in prompts]), **self.encodings.shown(prompts)}

    def _predict(self, encoded: Encoded, draw: Draw) -> Tensor:
        x_t = self.model.path.add_noise(encoded.latents, draw.noise, draw.t)
        return self.model.predict(x_t, draw.t, encoded.condition)

    def _predictions(self, encoded: Encoded, draw: Draw) -> tuple[Tensor, Tensor]:
        """The policy's output with gradient, and the reference's without."""
        with torch.no_grad(), self.reference():
            reference = self._predict(encoded, draw)
        return self._predict(encoded, draw), reference

    def _surrogate(self, encoded: Encoded, draw: Draw, output: Tensor) -> LogProbs:
        """-½ mean over dimensions of (output - target)², `[B, 1]`."""
        target = self.model.path.target(encoded.latents, draw.noise, draw.t)
        values = -0.5 * encoded.mean_square(output - target)[:, None]
        return LogProbs(values, torch.ones_like(values))
