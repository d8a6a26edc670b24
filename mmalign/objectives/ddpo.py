"""DDPO-IS. Black et al. 2023, arXiv:2305.13301; as in the authors' code (kvablack/ddpo-pytorch).

    A = clip( (r - m) / (s + 1e-6), ±5 ),    L = 1/U Σ_u -min(ρ A, clip(ρ, 1 ± 1e-4) A)

m and s are mean and deviation of what the prompt scored in this and earlier buffers, of which `rollouts.history` remembers as
many (16 or 32 in the code); with fewer than `least` of them, or none remembered, those of the buffer. A unit is a denoising
step. Its log p is a mean over dimensions, for which the ε is made.

Where it differs:
1. A step of the optimiser takes all units of its samples at once; the code adds their gradients up one by one.
2. The sampler's last step, which the code trains with σ of 0.02, is no unit.
3. With several processes each has statistics of its own prompts.
"""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.objectives import rollouts, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    *,
    clip: NonNegativeFloat = 1e-4,
) -> Loss:
    """log_probs, old_log_probs, advantages, mask: `[B, U]`. lengths: U, `[B]`. clip: ε."""
    return surrogate.loss(log_probs - old_log_probs, advantages, mask, lengths, clip, clip)


def advantages(
    parts: Parts, experience: Experience, *, least: PositiveInt = 16, most: PositiveFloat = 5.0
) -> dict[str, Tensor]:
    """least: how many scores of a prompt make a statistic. most: how far from 0 A may be."""
    rewards = experience.scores.values
    past = experience.past or [()] * len(rewards)
    found = maths.running(rewards, past, least).clamp(-most, most)
    return rollouts.prepared(experience, found, "own")


terms = rollouts.terms
objective = Objective(loss, terms, advantages)
