"""Denoising: models that turn noise into data step by step, by diffusion or by flow.

A plugin gives an adapter (`DenoisingModel`); `DenoisingPolicy` makes of it a surrogate likelihood (`SurrogatePolicy`), samples,
samples with gradient, and rollouts, whose units are the sampler's steps that draw noise. Latents `[B, ...]` are float32 or wider
here; only the adapter knows the network's own precision.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmalign.errors import UserError
from mmalign.maths.transitions import Kind, Sde, Steps, Transition, sde, step
from mmalign.processes.encodings import Encodings
from mmalign.processes.policy import evaluating
from mmalign.processes.surrogate import DenoisingModel, SurrogatePolicy
from mmalign.records import LogProbs, Prompt, Rollout, Samples, Scores
from mmalign.samplers import gradient, guided, repair
from mmalign.samplers.guidance import Denoise, between, classifier_free
from mmalign.samplers.guided import Slope, Tally
from mmalign.samplers.walk import (
    Noise,
    Step,
    end,
    noisy_steps,
    trained_steps,
    trajectories,
    walk,
    window_after,
    windows,
)


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    steps: N, how often the network is asked for one sample.
    guidance_scale: w of classifier-free guidance; 1 is none.
    eta: η, how much noise the steps draw: 0 is deterministic. Of diffusion models, 1 is as much as DDPM; of flow models the
        papers take 0.7 (Flow-GRPO), 0.3 (DanceGRPO) and 0.8 (CPS).
    sde: what η says; see `mmalign.maths.transitions`. None is ddim for diffusion models and flow-grpo for flow models.
    window: so many steps in a row, w, draw noise and all others none (MixGRPO, Li et al. 2025, arXiv:2507.21802); None is
        all. Each sample has its window at a random place of its own, unless `window_every` is set. Sampling with gradient
        has no window.
    window_every: τ: all windows are at one place, which moves with training (MixGRPO's progressive windows; there 25). After
        k updates they begin at the step l = s (⌊k / τ⌋ mod P), the noisiest being 0, where P = ⌊(M - w) / s⌋ + 1 places
        have room among the M steps that draw noise.
    window_stride: s.
    """

    steps: PositiveInt = 50
    guidance_scale: NonNegativeFloat = 5.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    sde: Kind | None = None
    window: PositiveInt | None = None
    window_every: PositiveInt | None = None
    window_stride: PositiveInt = 1


# Within the policy its own attribute hides the class of that name.
_Sampling = Sampling


class DenoisingPolicy(SurrogatePolicy):
    """A denoising model as objectives see it.

    Random numbers come from generators on the CPU, so that they are the same on every device.

    gradient_checkpointing: `differentiate` and `replay` compute each prediction (and the decoder) again in the backward pass,
        to keep less of them until then.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {
            "likelihood",
            "timed",
            "divergence",
            "differentiable",
            "rollouts",
            "steps",
            "mixture",
            "guided",
            "repair",
            "encodings",
        }
    )
    Sampling = _Sampling

    def __init__(self, model: DenoisingModel, sampling: _Sampling, gradient_checkpointing: bool = False):
        self.model = model
        self.encodings = Encodings(model)
        self.sampling = sampling
        self.gradient_checkpointing = gradient_checkpointing
        sde(model.path, sampling.eta, sampling.sde)  # so that a way that is not for this model is told at once

    @property
    def sde(self) -> Sde:
        """How its sampler draws noise. Raises UserError for a way that is not for this model."""
        return sde(self.model.path, self.sampling.eta, self.sampling.sde)

    # ---- samples

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt. Each depends on its own prompt and seed alone, not on the batch around it."""
        return self._sampled(prompts, seeds, self._denoise(prompts))

    @torch.no_grad()
    def mixed(self, prompts: Sequence[Prompt], seeds: Sequence[int], share: float) -> Samples:
        """One sample a prompt, each step drawn from r^c p^(1-c) / Z, between the reference (r) and the policy (p).

        share: c; at 0 they are those of `sample`, at 1 those of the reference.
        """
        denoise = self._denoise(prompts)

        def reference(x: Tensor, t: Tensor) -> Tensor:
            with self.reference():
                return denoise(x, t)

        return self._sampled(prompts, seeds, between(denoise, reference, share))

    @torch.no_grad()
    def guided(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        reward: Callable[[Samples], Scores],
        weight: float,
        tally: Tally | None = None,
    ) -> Samples:
        """As `sample`, but led by the gradient of a differentiable reward of what each step's estimate looks like.

        weight: w of `mmalign.samplers.guided`; at 0 they are the very samples of `sample`. tally: counts gradients.
        """

        def score(x0: Tensor) -> Tensor:
            return reward(self._decoded(prompts, x0, seeds)).values

        denoise = self._denoise(prompts)
        slope = guided.of_clean(denoise, self.model.path, score)
        return self._led(prompts, seeds, denoise, guided.bounded(slope, tally or Tally()), weight)

    @torch.no_grad()
    def guided_noisy(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        reward: Callable[[Tensor, Tensor], Tensor],
        weight: float,
        tally: Tally | None = None,
        max_norm: float | None = None,
    ) -> Samples:
        """As `guided`, by a reward of noisy latents `[B, ...]` and their times `[B]`: no gradient flows through the network.

        max_norm: how long a sample's gradient may be.
        """
        denoise = self._denoise(prompts)
        slope = guided.of_noisy(denoise, reward)
        return self._led(prompts, seeds, denoise, guided.bounded(slope, tally or Tally(), max_norm), weight)

    def differentiate(self, prompts: Sequence[Prompt], plan: gradient.Plan, rng: torch.Generator) -> Samples:
        """Samples whose media carry gradient to the weights, as `plan` says.

        With re-noising there are `(1 + plan.renoise) B` of them: all prompts, then all prompts again.
        """
        shape = (len(prompts), *self.model.latent_shape)

        def noise() -> Tensor:
            return torch.randn(shape, generator=rng).to(self.model.device)

        path, grid = self.model.path, self._grid()
        denoise, decode = self._recomputed(self._denoise(prompts)), self._recomputed(self.model.decode)
        latents = gradient.ddim(denoise, path, noise(), grid, plan, self.sde, noise)
        return Samples(list(prompts) * (1 + plan.renoise), decode(latents), frame_rate=self.model.frame_rate)

    @torch.no_grad()
    def drawn(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> tuple[Samples, Tensor]:
        """As `sample`, and the latents that the samples are made of."""
        with evaluating(self.network):
            latents = end(self._walk(self._denoise(prompts), *self._start(seeds)))
            return self._decoded(prompts, latents, seeds), latents

    @torch.no_grad()
    def redrawn(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], others: Sequence[int], known: Tensor, keep: Tensor
    ) -> tuple[Samples, Tensor]:
        """As `drawn`, from the seeds `others` but where `keep` is 1: there it begins as `seeds` do and ends as `known`.

        known: latents. keep: may be broadcast to them.
        """
        (x, noisy, noise), (before, _, _) = self._start(others), self._start(seeds)
        denoise = repair.holding(self._denoise(prompts), self.model.path, known, keep)
        with evaluating(self.network):
            latents = end(self._walk(denoise, keep * before + (1 - keep) * x, noisy, noise))
            return self._decoded(prompts, latents, others), latents

    # ---- rollouts

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], seeds: Sequence[int], starts: Sequence[int] | None = None) -> Rollout:
        """What `sample` gives, with the log-probabilities of its noisy steps `[B, U]` but the last, means over dimensions.

        `replay` finds the same while nothing trains. Raises UserError where no step draws noise, or no window is there to move.
        starts: other seeds for the noise that the samples begin with and for the place of their window.
        """
        if self.sampling.window is None and self.sampling.window_every is not None:
            raise UserError("sampling.window_every: there is no window that could move: set sampling.window, too")
        x, noisy, noise = self._start(seeds, starts)
        counted = trained_steps(noisy)
        if not counted.any():
            raise UserError(
                "sampling.eta: only steps that draw noise have a probability, and a rollout needs some: set eta above 0"
                " (1 for diffusion models, 0.7 for flow models) and sampling.steps to 2 or more"
            )
        latents, log_probs = [x], []
        with evaluating(self.network):
            for taken in self._walk(self._denoise(prompts), x, noisy, noise):
                latents.append(taken.x_next)
                log_probs.append(taken.transition.log_prob(taken.x_next))
            samples = self._decoded(prompts, latents[-1], seeds)
        values = torch.stack(log_probs, dim=1)[counted].reshape(len(counted), -1)
        return Rollout(samples, LogProbs(values, torch.ones_like(values)), trajectories(latents, counted))

    def replay(self, rollout: Rollout) -> LogProbs:
        """How likely today's weights find the steps of a rollout (or a slice of one), `[B, U]`, with gradient.

        The graphs of all U predictions live until the backward pass: bound them by gradient checkpointing, by `part`, or by
        `sampling.window`.
        """
        values = torch.stack([now.log_prob(x_next) for now, x_next in self._transitions(rollout)], dim=1)
        return LogProbs(values, torch.ones_like(values))

    def replay_steps(self, rollout: Rollout) -> Steps:
        """As `replay`, with what the steps are drawn from."""
        found = list(self._transitions(rollout))
        log_probs = torch.stack([now.log_prob(x_next) for now, x_next in found], dim=1)
        means = torch.stack([now.mean for now, _ in found], dim=1)
        stds = torch.stack([now.std.flatten() for now, _ in found], dim=1)
        levels = self.model.path.coefficients(self._grid())[1].to(stds)
        steps = torch.stack([one["steps"] for one in rollout.units]).to(levels.device)
        return Steps(log_probs, means, stds, levels[steps] - levels[steps + 1])

    def replay_divergence(self, rollout: Rollout) -> LogProbs:
        """KL(policy ‖ reference) of each step of a rollout, exact, the mean over dimensions: `[B, U]`, with gradient."""
        with torch.no_grad(), self.reference():
            references = [reference for reference, _ in self._transitions(rollout)]
        ours = [policy for policy, _ in self._transitions(rollout)]
        values = torch.stack([policy.kl(other) for policy, other in zip(ours, references, strict=True)], dim=1)
        return LogProbs(values, torch.ones_like(values))

    def part(self, rollout: Rollout, units: slice) -> Rollout:
        """The same samples with only some of their units, in a row."""
        first, last, _ = units.indices(rollout.log_probs.values.shape[1])
        log_probs = LogProbs(rollout.log_probs.values[:, first:last], rollout.log_probs.mask[:, first:last])
        trajectories = [
            {"latents": one["latents"][first : last + 1], "steps": one["steps"][first:last]} for one in rollout.units
        ]
        return Rollout(rollout.samples, log_probs, trajectories)

    # ---- inside

    def _start(self, seeds: Sequence[int], starts: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Noise]:
        """Pure noise, which steps of which sample draw more `[B, N]`, and where it comes from: a generator a sample.

        starts: the first two are those of these seeds instead.
        """
        if starts is not None:
            x, noisy, _ = self._start(starts)
            return x, noisy, self._start(seeds)[2]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape, device = self.model.latent_shape, self.model.device

        def noise(draws: Tensor) -> Tensor:
            drawn = zip(generators, draws.tolist(), strict=True)
            rows = [torch.randn(shape, generator=one) if draw else torch.zeros(shape) for one, draw in drawn]
            return torch.stack(rows).to(device)

        x = noise(torch.ones(len(seeds), dtype=torch.bool))
        noisy = noisy_steps(self.model.path, self._grid(), self.sde)
        return x, self._drawing(noisy, generators), noise

    def _drawing(self, noisy: Tensor, generators: list[torch.Generator]) -> Tensor:
        """`[B, N]`: which steps of which sample draw noise, of those that could, `noisy` `[N]`."""
        size, every = self.sampling.window, self.sampling.window_every
        if size is None:
            return noisy.expand(len(generators), -1)
        if every is None:
            return windows(trained_steps(noisy), size, generators)
        window = window_after(trained_steps(noisy), size, self.sampling.window_stride, self.updates // every)
        return window.expand(len(generators), -1)

    def _walk(self, denoise: Denoise, x: Tensor, noisy: Tensor, noise: Noise) -> Iterator[Step]:
        return walk(denoise, self.model.path, x, self._grid(), noisy, self.sde, noise)

    def _sampled(self, prompts: Sequence[Prompt], seeds: Sequence[int], denoise: Denoise) -> Samples:
        with evaluating(self.network):
            latents = end(self._walk(denoise, *self._start(seeds)))
            return self._decoded(prompts, latents, seeds)

    def _led(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], denoise: Denoise, slope: Slope, weight: float
    ) -> Samples:
        led = denoise if weight == 0 else guided.guided(self.model.path, denoise, slope, weight)
        return self._sampled(prompts, seeds, led)

    def _decoded(self, prompts: Sequence[Prompt], latents: Tensor, seeds: Sequence[int]) -> Samples:
        return Samples(prompts, self.model.decode(latents), seeds, self.model.frame_rate)

    def _transitions(self, rollout: Rollout) -> Iterator[tuple[Transition, Tensor]]:
        """Of each unit, how today's weights would step on from where its samples were, and where these went."""
        denoise, grid = self._recomputed(self._denoise(rollout.samples.prompts)), self._grid()
        latents = torch.stack([one["latents"] for one in rollout.units], dim=1).to(grid.device)
        steps = torch.stack([one["steps"] for one in rollout.units], dim=1).to(grid.device)
        for x, x_next, i in zip(latents[:-1], latents[1:], steps, strict=True):
            yield step(self.model.path, x, grid[i], grid[i + 1], denoise(x, grid[i]), self.sde), x_next

    def _grid(self) -> Tensor:
        """`[N + 1]`: the sampler's times."""
        return self.model.path.grid(self.sampling.steps).to(self.model.device)

    def _denoise(self, prompts: Sequence[Prompt]) -> Denoise:
        scale = self.sampling.guidance_scale
        empty = self.encodings.unconditional(len(prompts)) if scale != 1 else None
        unconditional = empty and {**empty, **self.encodings.shown(prompts)}
        return classifier_free(self.model.predict, self._condition(prompts), unconditional, scale)

    def _recomputed(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, under gradient checkpointing if the run wants it."""
        return partial(checkpoint, function, use_reentrant=False) if self.gradient_checkpointing else function
