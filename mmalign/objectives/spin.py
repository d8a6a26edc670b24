"""Self-play fine-tuning. Chen et al. 2024, arXiv:2401.01335; as in the authors' code (uclaml/SPIN).

    L = -log σ(β Δ),    Δ as in `paired`,    winner: the given sample,    loser: the reference's own for the same prompt

`dpo` that needs demonstrations alone. The reference is the model of the iteration before: an iteration is a run, whose
model is what the last one saved. When the reference samples as the data are, the gradient vanishes on average.

Where it differs: losers are drawn anew for each batch, where the authors draw one a prompt before an iteration, and keep
those of the iteration before.
"""

import torch
from torch import Tensor

from mmalign.objectives import dpo, paired
from mmalign.parts import Batch, Parts
from mmalign.records import Units
from mmalign.specs import Objective


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, units: Units = "sum") -> dict[str, Tensor]:
    """As `paired.terms`, against samples that `sampling` of the run's config draws from the reference."""
    seeds = torch.randint(2**31, (len(batch["prompt"]),), generator=rng).tolist()
    with parts.policy.reference():
        own = parts.policy.sample(batch["prompt"], seeds).made
    return paired.terms(parts, {**batch, "chosen": batch["sample"], "rejected": list(own)}, rng, units=units)


objective = Objective(dpo.loss, terms)
