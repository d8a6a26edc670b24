"""Where the arguments of objectives on pairs of rollouts come from. A pair is two neighbours of a batch: rows 2i and 2i + 1."""

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.parts import Batch, Parts


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """log_probs with gradient, reference_log_probs and mask, all `[2P, U]`, and the scores `[2P]`.

    batch: holds `rollout` and `scores`, and `reference_log_probs` where the reference was asked before.
    Raises UserError where neighbours are not of one prompt.
    """
    rollout, policy = batch["rollout"], parts.policy
    texts = rollout.samples.texts
    if texts[0::2] != texts[1::2]:
        raise UserError(
            "objective: it compares neighbours of one prompt: let each prompt have an even number of samples, and each"
            " batch an even number of rows"
        )
    reference = batch.get("reference_log_probs")
    if reference is None:
        with torch.no_grad(), policy.reference():
            reference = policy.replay(rollout)
    found = policy.replay(rollout)
    return {
        "log_probs": found.values,
        "reference_log_probs": reference.values,
        "mask": found.mask,
        "scores": batch["scores"],
    }


def difference(values: Tensor) -> Tensor:
    """`[P, ...]`: the first of each pair minus the second, of `[2P, ...]`."""
    return values[0::2] - values[1::2]
