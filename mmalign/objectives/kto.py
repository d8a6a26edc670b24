"""Kahneman-Tversky optimisation, for samples that are each good or bad. Ethayarajh et al. 2024, arXiv:2402.01306.

    good  L = λ_D (1 - σ(β (d - z)))          bad  L = λ_U (1 - σ(β (z - d)))
    d = log p - log r of a row,    z = max(0, mean over the batch of d' ), without gradient

d' is d for a row's prompt and the sample of the row before, so that z estimates KL(p ‖ r). z is of the micro-batch;
one of 1 would compare a row with itself. λ_D n_D / (λ_U n_U) should lie in [1, 4/3], n being how many are good and bad.
Diffusion-KTO (arXiv:2404.04465) has the mean of d for z, and β 5,000 of errors of which log p here is minus a half: take 10,000.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(
    logratios: Tensor,
    mismatched_logratios: Tensor,
    good: Tensor,
    *,
    beta: PositiveFloat = 0.1,
    desirable: PositiveFloat = 1.0,
    undesirable: PositiveFloat = 1.0,
) -> Loss:
    """logratios: d, mismatched_logratios: d', good: 1 or 0, all `[B]`. desirable, undesirable: λ_D, λ_U."""
    z = mismatched_logratios.mean().clamp(min=0).detach()
    sign, weight = 2 * good - 1, good * desirable + (1 - good) * undesirable
    values = weight * (-sign * beta * (logratios - z)).sigmoid()
    gap = (sign * (logratios - z)).detach()
    return Loss(values, {"kl": z, "margin": beta * gap.mean(), "accuracy": (gap > 0).float().mean()})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """Each row's sample, and without gradient each prompt with another row's."""
    samples = batch["sample"]
    if len(samples) < 2:
        raise UserError("objective: kto compares the rows of a batch: set trainer.batch_size to 2 or more")
    logratios = _logratios(parts, batch["prompt"], samples, rng)
    with torch.no_grad():
        mismatched = _logratios(parts, batch["prompt"], [samples[-1], *samples[:-1]], rng)
    good = logratios.new_tensor([float(label > 0) for label in batch["label"]])
    return {"logratios": logratios, "mismatched_logratios": mismatched, "good": good}


def _logratios(parts: Parts, prompts: Sequence[Any], samples: Sequence[Any], rng: torch.Generator) -> Tensor:
    rows = parts.policy.encode(prompts, samples, rng)
    policy, reference = sides.both(parts.policy, rows, parts.policy.draw(rows, rng))
    return policy.minus(reference).sum()


objective = Objective(loss, terms)
