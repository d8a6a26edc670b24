"""Reward-weighted regression: make given samples likelier, the better ones more. With the softmax weights of DDPO's
appendix (Black et al. 2023, arXiv:2305.13301).

    L = -w ℓ,    w = exp(r / τ) / mean_j exp(r_j / τ),    ℓ as in `sft`, the mean of log p over units

over the rivals j of a sample, itself included: all samples of its prompt if the rows tell their scores (`rivals`), or
else those of the micro-batch. Where all are alike, or τ is large, this is `sft`; for small τ only the best one counts.

Where it differs: weights are 1 on average instead of in sum, so that the loss does not depend on how many rivals there
are; DDPO's β of 0.2 is 1 / τ.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmalign.errors import UserError
from mmalign.objectives import sft
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(log_probs: Tensor, scores: Tensor, rivals: Tensor, *, temperature: PositiveFloat = 5.0) -> Loss:
    """log_probs: ℓ, scores: r, `[B]`. rivals: r_j, `[B, R]`, -inf where a row has fewer. temperature: τ."""
    weights = softmax_weights(scores, rivals, temperature)
    return weighted(log_probs, scores, weights)


def softmax_weights(scores: Tensor, rivals: Tensor, temperature: float) -> Tensor:
    """w, `[B]`."""
    log_mean = (rivals / temperature).logsumexp(dim=1) - (rivals > -torch.inf).to(rivals).sum(dim=1).log()
    return (scores / temperature - log_mean).exp()


def weighted(log_probs: Tensor, scores: Tensor, weights: Tensor) -> Loss:
    """`sft` with weights `[B]`, and what they are."""
    supervised = sft.loss(log_probs)
    metrics = {"score": scores.mean(), "largest_weight": weights.max()}
    return Loss(weights * supervised.values, {**supervised.metrics, **metrics})


def terms(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """As `sft.terms`, with the rows' scores and those of their rivals."""
    found = sft.terms(parts, batch, rng)
    scores, rivals = scored(batch, found["log_probs"])
    return {**found, "scores": scores, "rivals": rivals}


def scored(batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
    """r `[B]` and r_j `[B, R]` of rows, of the type and on the device of `like`. Raises UserError for a row without any rival."""
    scores = like.new_tensor(batch["score"])
    if len(scores) < 2 and "rivals" not in batch:
        raise UserError("objective: a row without `rivals` has those of its batch: set trainer.batch_size to 2 or more")
    rows = [scores.new_tensor(row) for row in batch.get("rivals", ())] or [scores] * len(scores)
    return scores, pad_sequence(rows, batch_first=True, padding_value=-torch.inf)


objective = Objective(loss, terms)
