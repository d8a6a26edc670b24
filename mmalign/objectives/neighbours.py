"""Where the arguments of objectives on pairs of rollouts come from. A pair is two neighbours of a batch: rows 2i and 2i + 1."""

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import penalty, rollouts
from mmalign.parts import Batch, Parts
from mmalign.records import Experience


def advantages(parts: Parts, experience: Experience) -> dict[str, Tensor]:
    """The scores themselves, `[N]`, and how likely the reference finds the units, `[N, U]`."""
    reference = penalty.reference_log_probs(parts, experience)
    return {"scores": experience.scores.values, "reference_log_probs": reference}


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """log_probs with gradient, old_log_probs, reference_log_probs and mask, all `[2P, U]`, and the scores `[2P]`.

    Raises UserError where neighbours are not of one prompt.
    """
    texts = batch["rollout"].samples.texts
    if texts[0::2] != texts[1::2]:
        raise UserError(
            "objective: it compares neighbours of one prompt: let each prompt have an even number of samples, and each"
            " batch an even number of rows"
        )
    return {**rollouts.terms(parts, batch, rng), "mask": batch["rollout"].log_probs.mask}


def difference(values: Tensor) -> Tensor:
    """`[P, ...]`: the first of each pair minus the second, of `[2P, ...]`."""
    return values[0::2] - values[1::2]
