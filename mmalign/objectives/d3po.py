"""D3PO. Yang et al. 2023, arXiv:2311.13231; as in the authors' code (yk7333/d3po).

    L = mean_t -log σ( β h [ log clip(ρ_0,t) - log clip(ρ_1,t) ] )
    ρ_k,t = p_θ / p_ref of step t of sample k,    clip to 1 ± ϵ,    h = 1 if sample 0 scores higher, -1 if lower, 0 if tied

Every step of the better sample of a pair is made likelier, and every step of the worse one less likely. Outside 1 ± ϵ no
gradient flows, so that L stays within 2 β ϵ (or so) of log 2: look at the reward, not at L.

Where it differs:
1. The theorem of the paper sums over steps within σ; the code, and so this, takes one loss a step.
2. Who is better is told by the run's rewards. A pair without a score counts as tied.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import neighbours
from mmalign.objectives.neighbours import difference
from mmalign.parts import Batch, Parts
from mmalign.records import LogProbs, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    reference_log_probs: Tensor,
    mask: Tensor,
    scores: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.1,
) -> Loss:
    """log_probs, reference_log_probs, mask: `[2P, U]`. scores: `[2P]`. clip: ϵ. Values are `[P]`, one a pair."""
    log_ratios = (log_probs - reference_log_probs) * mask
    clipped = log_ratios.clamp(math.log(1 - clip), math.log(1 + clip))
    better = difference(scores).sign().nan_to_num(nan=0.0)
    values = -logsigmoid(beta * better[:, None] * difference(clipped))
    gap = better * difference(LogProbs(log_ratios.detach(), mask).mean())
    metrics = {
        "accuracy": (gap > 0).float().mean(),
        "margin": gap.mean(),
        "tied": (better == 0).float().mean(),
        "clipped": LogProbs((clipped != log_ratios).to(mask), mask).mean().mean(),
    }
    return Loss(LogProbs(values, torch.maximum(mask[0::2], mask[1::2])).mean(), metrics)


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """What all pairs of rollouts have; how likely the units were when they were drawn does not count."""
    found = neighbours.terms(parts, batch, rng)
    del found["old_log_probs"]
    return found


objective = Objective(loss, terms, neighbours.advantages)
