"""Flow-RWR. Liu et al. 2025 (Improving video generation with human feedback), arXiv:2501.13918.

    L = -exp(r) ℓ,    ℓ as in `sft`: on a velocity model -½ mean_D (v_θ(x_t) - v)²

`rwr` whose weights are not normalised: a reward that is higher by 1 all over multiplies the loss by e, so standardise it.
On prompts that name the class of their sample (`template`), with a reward a class, it is what C-RLFT does (Wang et al. 2023,
arXiv:2309.11235).

Where it differs:
1. r is clamped to ±c, so that no sample outweighs all others.
2. ℓ is a mean over dimensions and has the ½ of `sft`; times are drawn as the model was trained.
3. The network may predict anything.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import rwr, sft
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor, scores: Tensor, *, limit: PositiveFloat = 5.0) -> Loss:
    """log_probs: ℓ, scores: r, `[B]`. limit: c."""
    return rwr.weighted(log_probs, scores, scores.clamp(-limit, limit).exp())


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """As `sft.terms`, with the rows' scores."""
    found = sft.terms(parts, batch, rng)
    return {**found, "scores": found["log_probs"].new_tensor(batch["score"])}


objective = Objective(loss, terms)
