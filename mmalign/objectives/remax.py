"""ReMax. Li et al. 2023, arXiv:2310.10505; as in the authors' code.

    L = -1/n Σ_u G_u log p_u,    G_u = A - β Σ_{v >= u} KL_v,    A = clip(r(x) - r(x̂), ±5)

x̂ is the policy's likeliest sample for the prompt, one more a prompt and buffer. n: units a sample of the buffer has on average;
or, as for self-retrieval (arXiv:2409.03025), those of the sample itself: `length: own`.
There is no ratio, so `rollouts.epochs` is 1, and a buffer is best one update. `rollouts.samples_per_prompt` may be 1.
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import penalty, reinforce, rollouts
from mmalign.parts import Parts
from mmalign.records import Experience, Samples
from mmalign.specs import Objective


def advantages(
    parts: Parts,
    experience: Experience,
    *,
    most: PositiveFloat = 5.0,
    beta: NonNegativeFloat = 0.0,
    estimator: kl.Estimator = "k1",
    length: rollouts.Length = "mean",
) -> dict[str, Tensor]:
    """most: how far from 0 A may be. beta: β. estimator: of KL."""
    rewards, mask = experience.scores.values, experience.rollout.log_probs.mask
    better = (rewards - baseline(parts, experience).to(rewards)).clamp(-most, most)
    earned = maths.at_last(better, mask)
    if beta > 0:
        earned = earned - beta * penalty.divergence(parts, experience, estimator)
    returns = maths.generalised(earned, torch.zeros_like(earned), mask, gamma=1.0, lam=1.0)
    return rollouts.prepared(experience, returns, length)


def baseline(parts: Parts, experience: Experience) -> Tensor:
    """r(x̂), `[N]`, scored beside as many other prompts as the samples were."""
    prompts = experience.rollout.samples.prompts[:: experience.group]
    size = max(1, experience.at_once // experience.group)
    pieces = [parts.policy.likeliest(prompts[i : i + size]) for i in range(0, len(prompts), size)]
    scores: Tensor = parts.reward.measured(Samples.joined(pieces), at_once=size).values
    return scores.repeat_interleave(experience.group)


terms = rollouts.terms
objective = Objective(reinforce.loss, terms, advantages)
