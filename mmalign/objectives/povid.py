"""POVID's second stage: what a model would say of a worse picture is rejected, too. Zhou et al. 2024, arXiv:2402.11411.

    L = -½ log σ(β (a - b)) - ½ log σ(β (a - n)),    a, b as in `paired`
    n = Σ_u log p(ŷ_u | m_w, w_<u) - log r(ŷ_u | m_w, w_<u),    ŷ_u = argmax_v p(v | m_l, w_<u) without gradient

m_l is the prompt shown worse than it is (m_w), for example its picture under noise: ŷ is what the policy of today would say next
at each unit of the winner if it saw no better, which it is to find unlikely once it does. As in the authors' code
(YiyangZhou/POVID).
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import dpo, sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Units
from mmalign.specs import Objective


def loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, misread_logratios: Tensor, *, beta: PositiveFloat = 0.1
) -> Loss:
    """chosen_logratios, rejected_logratios, misread_logratios: a, b, n, `[B]`."""
    a, b, n = chosen_logratios, rejected_logratios, misread_logratios
    given, misread = dpo.loss(a, b, beta=beta), dpo.loss(a, n, beta=beta)
    found = {"sees": misread.metrics["accuracy"], "misread_logratio": n.detach().mean()}
    return Loss((given.values + misread.values) / 2, {**given.metrics, **found})


def terms(parts: Parts, batch: Batch, rng: torch.Generator, *, units: Units = "sum") -> dict[str, Tensor]:
    """a, b and n, `[B]`, from one forward of each model, `[3B]`, and one of the policy for ŷ. units: as in `paired`."""
    policy, prompts = parts.policy, batch["prompt"]
    rows = policy.encode([*prompts] * 3, [*batch["chosen"], *batch["rejected"], *batch["chosen"]], rng)
    rows = policy.misread(rows, policy.encode(batch["degraded"], batch["chosen"], rng))
    ours, reference = sides.both(policy, rows, policy.draw(rows, rng, copies=3))
    names = ("chosen_logratios", "rejected_logratios", "misread_logratios")
    return dict(zip(names, ours.minus(reference).reduced(units).chunk(3), strict=True))


objective = Objective(loss, terms)
