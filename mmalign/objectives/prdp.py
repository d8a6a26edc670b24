"""PRDP, proximal reward difference prediction. Deng et al. 2024, arXiv:2402.08714; as in the loss of its appendix G.

    L = max( ℓ(r̂), ℓ(r̂_clip) ),    ℓ(r̂) = ( r̂_a - r̂_b - (r_a - r_b) / β )²
    r̂ = mean_t log-ratio_t,  log-ratio_t = log p_θ - log p_ref of step t
    r̂_clip = the same with each log-ratio_t clipped to that of the policy which drew the samples, ± ϵ

The log-ratios of two samples of one prompt are regressed on their rewards; ℓ = 0 for all pairs just where the policy is the
optimum of reward minus β KL. The maximum takes away what is gained by leaving the neighbourhood ± ϵ.

Where it differs:
1. The paper sums over steps, the appendix takes the mean, for which its β and ϵ are: `units: sum` is the former. It has
   β = 3e-5 and ϵ = 1e-6 for few prompts and ten updates a rollout, and β = 3e-6 and ϵ = 1e-4 for many prompts and one.
2. Pairs are neighbours, not all pairs of a prompt. Ties count, as in the paper; the appendix leaves them out.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import neighbours
from mmalign.objectives.neighbours import difference
from mmalign.records import LogProbs, Loss, Units
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    mask: Tensor,
    scores: Tensor,
    *,
    beta: PositiveFloat = 3e-5,
    clip: PositiveFloat = 1e-6,
    units: Units = "mean",
) -> Loss:
    """All but scores, `[2P]`, are `[2P, U]`. clip: ϵ. Values are `[P]`, one a pair; one without a score counts 0."""
    log_ratios, old = log_probs - reference_log_probs, old_log_probs - reference_log_probs
    clipped = torch.maximum(torch.minimum(log_ratios, old + clip), old - clip)
    target = difference(scores) / beta
    scored = target.isfinite()
    target = target.where(scored, 0.0)
    predicted, proximal = (difference(LogProbs(some, mask).reduced(units)) for some in (log_ratios, clipped))
    values = torch.maximum((predicted - target) ** 2, (proximal - target) ** 2)
    right = (predicted.detach() * target > 0).float().mean()
    outside = LogProbs((clipped != log_ratios).to(mask), mask).mean().mean()
    return Loss(values * scored, {"accuracy": right, "clipped": outside, "unscored": 1 - scored.float().mean()})


terms = neighbours.terms
objective = Objective(loss, terms, neighbours.advantages)
