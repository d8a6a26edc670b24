"""Conditional preference optimisation, mDPO. Wang et al. 2024, arXiv:2406.11839.

    L = -log σ(β (a - b)) - log σ(β (a - c)) - log σ(β a - δ)

    a, b as in `paired`;  c = log p(w | m_l) - log r(w | m_l)

m_l is the prompt shown worse than it is, for example a small piece of its picture: the winner must be likelier where all is
seen, so that a model cannot learn to please without looking. The last term keeps the winner likelier than the reference has it.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Units
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor,
    rejected_logratios: Tensor,
    degraded_logratios: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    delta: float = 0.0,
) -> Loss:
    """chosen_logratios, rejected_logratios, degraded_logratios: a, b, c, `[B]`. delta: δ."""
    a, b, c = chosen_logratios, rejected_logratios, degraded_logratios
    values = -logsigmoid(beta * (a - b)) - logsigmoid(beta * (a - c)) - logsigmoid(beta * a - delta)
    found = sides.judged(values, a, b, beta)
    return Loss(values, {**found.metrics, "sees": (a > c).float().mean(), "degraded_logratio": c.detach().mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, units: Units = "sum") -> dict[str, Tensor]:
    """a, b and c, `[B]`, from one forward of each model, `[3B]`. units: as in `paired`."""
    prompts = [*batch["prompt"], *batch["prompt"], *batch["degraded"]]
    rows = parts.policy.encode(prompts, [*batch["chosen"], *batch["rejected"], *batch["chosen"]], rng)
    policy, reference = sides.both(parts.policy, rows, parts.policy.draw(rows, rng, copies=3))
    names = ("chosen_logratios", "rejected_logratios", "degraded_logratios")
    return dict(zip(names, policy.minus(reference).reduced(units).chunk(3), strict=True))


objective = Objective(loss, terms)
