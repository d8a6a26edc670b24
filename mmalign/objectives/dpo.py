"""Direct preference optimisation. Rafailov et al. 2023, arXiv:2305.18290.

    L = -log σ( β [ (log p_w - log r_w) - (log p_l - log r_l) ] )

with p the policy's and r the reference's likelihood of the winner (w, chosen) and the loser (l, rejected). Where that
is a surrogate at a random draw, both sides and both models share the draw.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.1) -> Loss:
    """chosen_logratios, rejected_logratios: log p - log r, `[B]`."""
    inside = beta * (chosen_logratios - rejected_logratios)
    metrics = {
        "accuracy": (inside > 0).float().mean(),
        "margin": inside.mean(),
        "chosen_logratio": chosen_logratios.mean(),
        "rejected_logratio": rejected_logratios.mean(),
    }
    return Loss(-logsigmoid(inside), {name: value.detach() for name, value in metrics.items()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Winners and losers go through one forward of the policy and one of the reference, `[2B]` each."""
    policy = parts.policy
    encoded = policy.encode([*batch["prompt"], *batch["prompt"]], [*batch["chosen"], *batch["rejected"]], rng)
    draw = policy.draw(encoded, rng, copies=2)
    with torch.no_grad(), policy.reference():
        reference = policy.log_likelihood(encoded, draw).sum()
    logratios = policy.log_likelihood(encoded, draw).sum() - reference
    chosen, rejected = logratios.chunk(2)
    return {"chosen_logratios": chosen, "rejected_logratios": rejected}


objective = Objective(loss, terms)
