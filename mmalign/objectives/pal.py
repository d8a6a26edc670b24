"""PAL: reward modelling with a mixture of prototypes for each annotator. Chen et al. 2024, arXiv:2406.08469.

    L = -log σ( y (r_a(x_1) - r_a(x_2)) ),    r_a = Σ_k softmax(z_a)_k r_k

r_k are the model's heads, z_a is learned with them: one row for everybody whom `model.heads.annotators` names. With one head
it is `bradley-terry`, whoever says what. Annotators who disagree share what they agree on.

Where it differs: an annotator is an ideal point Σ_k w_k u_k in the paper, to which samples are near or far; here what is
compared is the inner product, so that a prototype is a reward by itself, and features need no space of their own.
"""

import torch
from torch import Tensor

from mmalign.objectives import tastes
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(first: Tensor, second: Tensor, z: Tensor, preferences: Tensor) -> Loss:
    """first, second: r_k of both samples, z: `[B, K]`. preferences: y, `[B, 1]`."""
    return tastes.loss(first, second, z, preferences)


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """As `tastes`, without the variance."""
    found = tastes.terms(parts, batch, rng)
    del found["log_variance"]
    return found


objective = Objective(loss, terms)
