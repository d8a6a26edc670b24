"""Flow-NRG: noisy-reward guidance. Liu et al. 2025 (Improving video generation with human feedback), arXiv:2501.13918.

    v' = v - w t / (1 - t) ∇_x r(x_t, t),    r = Σ_k w_k r_k

where v is what classifier-free guidance made of the denoiser, r_k are the dimensions of a reward that was trained on noisy
latents (`latent-video-reward`), and the gradient flows through that reward alone. Pure noise, t = 1, is left alone. The samples
follow p(x_0) exp(w r): whoever samples says how much each dimension counts, and nothing is trained for it.

The formula stands in `mmalign.samplers.guided`, for any path.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.processes.policy import evaluating
from mmalign.records import Prompt, Samples
from mmalign.rewards.trained import load
from mmalign.samplers.guided import Tally


class FlowNrg:
    """The gradient of a latent reward's weighted dimensions leads every step; a weight is w_k.

    path: the `model` folder of a run that trained a `latent-video-reward` on the latents of this model.
    weights: w_k by dimension; those that it does not name count 0. None is 1 for all of them.
    scale: w. The paper takes 100 with weights that add up to about 1; a reward whose scores differ more wants less.
    max_norm: how long the gradient of one sample may be at one step; None is any length.
    """

    def __init__(
        self,
        path: str,
        weights: Mapping[str, float] | None = None,
        *,
        scale: NonNegativeFloat = 100.0,
        max_norm: PositiveFloat | None = None,
    ):
        self.reward = load(path)
        if not hasattr(self.reward.model, "noisy"):
            raise UserError(f"{path} holds no reward of noisy latents: train a `latent-video-reward`")
        names = self.reward.heads.names
        if unknown := [name for name in weights or () if name not in names]:
            told = nearest(unknown[0], names) or f"; they are {', '.join(names)}"
            raise UserError(f"weights: the reward has no dimension '{unknown[0]}'{told}")
        self.reward.network.requires_grad_(False)
        self.weights = torch.tensor([1.0 if weights is None else weights.get(name, 0.0) for name in names])
        self.scale = scale
        self.max_norm = max_norm
        self._tally = Tally()

    def to(self, device: torch.device | str) -> Self:
        """Move the reward."""
        self.reward.to(device)
        return self

    def __call__(self, policy: Any, reward: None, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt. It follows no other reward than its own."""
        model = self.reward.model
        weights = self.weights.to(model.device)
        condition = model.condition([prompt.text for prompt in prompts])

        def total(x: Tensor, t: Tensor) -> Tensor:
            scores: Tensor = self.reward.scores(model.noisy(x, t, condition))
            return (weights * scores).sum(dim=1)

        scale = self.scale if weights.any() else 0.0
        with evaluating(self.reward.network):
            samples: Samples = policy.guided_noisy(prompts, seeds, total, scale, self._tally, self.max_norm)
        return samples

    def warnings(self) -> list[str]:
        """What went wrong since this was asked last."""
        return self._tally.drain()
