"""Nash-MD: Nash learning from human feedback. Munos et al. 2023, arXiv:2312.00886; as in TRL.

    L = Σ_u [ β (log p_u - log r_u)_sg - (P - ½) ] log p_u,    P = P(y ≻ y'),    y' ~ r^c p^(1-c) / Z, unit by unit

Every sample y of the policy p meets one of an opponent that stands between it and the reference r. Its gradient is that of
the regularised game: where it rests, no rival is preferred to p. P comes from a reward that compares two samples
(`WeightedReward.preferred`), which need not be transitive; of one that scores it is σ(r(y) - r(y')).

Where it differs: the log-ratio is that of the policy which drew the samples, once a buffer. There is no ratio to make up for
weights that moved since, so `rollouts.epochs` is 1; where a buffer is one update it is the same.
"""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths.advantages import Share
from mmalign.objectives import penalty, reinforce, rollouts
from mmalign.parts import Parts
from mmalign.records import Experience, Loss, Samples
from mmalign.samplers.guided import another
from mmalign.specs import Objective


def loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, lengths: Tensor, preferences: Tensor
) -> Loss:
    """log_probs, old_log_probs, mask and advantages, P - ½ - β (log p - log r): `[B, U]`. lengths: 1, preferences: P, `[B]`."""
    found = reinforce.loss(log_probs, old_log_probs, advantages, mask, lengths)
    return Loss(found.values, {**found.metrics, "preference": preferences.nanmean()})


def advantages(
    parts: Parts, experience: Experience, *, mixture: Share = 0.5, beta: NonNegativeFloat = 0.1
) -> dict[str, Tensor]:
    """mixture: c. beta: β."""
    samples, size = experience.rollout.samples, experience.at_once
    rivals = Samples.joined([opponents(parts, samples[i : i + size], mixture) for i in range(0, len(samples), size)])
    mask = experience.rollout.log_probs.mask
    preferences = parts.reward.preferred(samples, rivals, size).to(mask)
    regular = penalty.divergence(parts, experience, "k1") if beta > 0 else torch.zeros_like(mask)
    found = rollouts.prepared(experience, preferences[:, None] - 0.5 - beta * regular, 1)
    return {**found, "preferences": preferences}


def opponents(parts: Parts, samples: Samples, mixture: float) -> Samples:
    """One rival a sample, from seeds of its own."""
    rivals: Samples = parts.policy.mixed(samples.prompts, [another(seed, 1) for seed in samples.seeds], mixture)
    return rivals


terms = rollouts.terms
objective = Objective(loss, terms, advantages)
