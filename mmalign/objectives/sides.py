"""The two sides of a pair, and what a policy and its reference make of them.

Winners come first, then losers: `[2B]`, split with `chunk(2)`.
"""

from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.scales import Scale
from mmalign.parts import Batch, Parts
from mmalign.records import LogProbs, Loss


def encoded(parts: Parts, batch: Batch, rng: torch.Generator) -> tuple[Any, Any]:
    """Both sides as the policy sees them, and the draw that they share."""
    prompts, media = [*batch["prompt"], *batch["prompt"]], [*batch["chosen"], *batch["rejected"]]
    rows = parts.policy.encode(prompts, media, rng)
    return rows, parts.policy.draw(rows, rng, copies=2)


def both(policy: Any, rows: Any, draw: Any) -> tuple[LogProbs, LogProbs]:
    """log p with gradient and log r without, at one draw."""
    with torch.no_grad(), policy.reference():
        reference = policy.log_likelihood(rows, draw)
    return policy.log_likelihood(rows, draw), reference


def dense(log_probs: LogProbs, policy: Any, rows: Any, weight: float) -> LogProbs:
    """Units in which the sides differ count `weight` times."""
    if weight == 1:
        return log_probs
    if "changed-units" not in policy.offers:
        raise UserError("objective.dense: this model cannot tell in which units two samples differ; leave it at 1")
    return log_probs.weighted(1 + (weight - 1) * policy.changed(rows))


def scaled(found: dict[str, Tensor], scale: Scale | None, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Log-ratios times s, and of everything the pairs that count."""
    if scale is None:
        return found
    chosen, rejected = found["chosen_logratios"], found["rejected_logratios"]
    strength = chosen.new_tensor(batch["strength"]) if "strength" in batch else None
    s, kept = scale((chosen - rejected).detach(), strength, rng)
    scaled = {**found, "chosen_logratios": s * chosen, "rejected_logratios": s * rejected}
    return {name: value[kept] for name, value in scaled.items()}


def judged(values: Tensor, chosen: Tensor, rejected: Tensor, beta: float, of: str = "logratio") -> Loss:
    """A loss and how the sides stand: how often and by how much β times the winner's `of` is above the loser's."""
    inside = (beta * (chosen - rejected)).detach()
    sides = {f"chosen_{of}": chosen.detach().mean(), f"rejected_{of}": rejected.detach().mean()}
    return Loss(values, {"accuracy": (inside > 0).float().mean(), "margin": inside.mean(), **sides})
