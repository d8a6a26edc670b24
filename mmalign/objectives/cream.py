"""CREAM: self-rewarding that trusts its own labels as far as they were consistent. Wang et al. 2024, arXiv:2410.12735.

    L = -c log σ(β Δ) - (1 - c) log σ(-β Δ),    Δ as in `paired`,    c = (τ + 1) / 2

The model ranks its own samples by what DPO has taught it (the reward `implicit`); τ is Kendall's, of that ranking and the one
by the model of the round before. At c = 1 this is `dpo`; at ½ the label is worth nothing, and below that it is turned round.
`collect.consistency` works c out, prompt by prompt.

Where it differs: the authors average c over the data set, and lose count of prompts that they skip.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import paired, sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Units
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, consistency: Tensor, *, beta: PositiveFloat = 0.1
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b. consistency: c in [0, 1]. All `[B]`."""
    inside = beta * (chosen_logratios - rejected_logratios)
    values = -consistency * logsigmoid(inside) - (1 - consistency) * logsigmoid(-inside)
    found = sides.judged(values, chosen_logratios, rejected_logratios, beta)
    return Loss(found.values, {**found.metrics, "consistency": consistency.mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, units: Units = "sum") -> dict[str, Tensor]:
    """a and b as in `paired`, and what each row says of its consistency."""
    found = paired.terms(parts, batch, rng, units=units)
    return {**found, "consistency": found["chosen_logratios"].new_tensor(batch["consistency"])}


objective = Objective(loss, terms)
