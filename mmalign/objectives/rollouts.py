"""Where the arguments of objectives on rollouts come from.

Once a buffer, `advantages` says by how much each unit was better than expected; each batch, `terms` asks the policy again how
likely the units are. What counts is in `mask`: a sample without a score has none.

Where the papers differ, there is the option
    length: n of L = Σ_u L_u / n, for a loss of units L_u. "own": how many units the sample has, so that each sample counts
        alike. "mean": how many a sample of the buffer has on average, so that each unit counts alike. A number: that.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmalign.parts import Batch, Parts
from mmalign.records import Experience

Length = Literal["own", "mean"] | Annotated[int, Field(ge=1)]


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """`log_probs` now, with gradient, and `old_log_probs` when the units were drawn, `[B, U]`, and the batch's own tensors."""
    rollout = batch["rollout"]
    return {"log_probs": parts.policy.replay(rollout).values, **own(batch)}


def own(batch: Batch) -> dict[str, Tensor]:
    """What a batch holds itself: `old_log_probs`, and what `advantages` worked out."""
    worked_out = {name: rows for name, rows in batch.items() if name != "rollout"}
    return {"old_log_probs": batch["rollout"].log_probs.values, **worked_out}


def prepared(experience: Experience, advantages: Tensor, length: Length) -> dict[str, Tensor]:
    """`advantages` (given as `[N]` or `[N, U]`) and `mask`, both `[N, U]`, and `lengths`, n, `[N]`.

    What is not finite, and every sample without a score, gets advantage 0 and mask 0.
    """
    mask = experience.rollout.log_probs.mask
    wide = (advantages if advantages.ndim == 2 else advantages[:, None]).expand_as(mask)
    known = experience.scores.values.isfinite() & wide.isfinite().all(dim=1)
    mask = mask * known[:, None]
    units = mask.sum(dim=1)
    lengths = {"own": units, "mean": units.mean().expand_as(units)}
    n = lengths[length] if isinstance(length, str) else torch.full_like(units, length)
    # A sample without units has a loss of 0, whatever it is divided by.
    return {"advantages": torch.where(mask > 0, wide, 0), "mask": mask, "lengths": n.where(n > 0, torch.ones_like(n))}
