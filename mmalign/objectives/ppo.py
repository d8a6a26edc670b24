"""Proximal policy optimisation with a critic. Schulman et al. 2017, arXiv:1707.06347; for language models as in TRL.

r_u = earned at u (what belongs to the whole sample: at its last unit) - β KL_u
A = GAE(r, V_old; γ, λ), whitened over the buffer,    R = A + V_old before whitening
L = 1/n Σ_u [ -min(ρ A, clip(ρ, 1 ± ε) A) + c ½ max((V - R)², (clip(V, V_old ± ε_v) - R)²) ]
V: the critic's value of what came before unit u
"""

from pydantic import NonNegativeFloat
from torch import Tensor

from mmalign.maths import advantages as maths
from mmalign.maths import kl
from mmalign.objectives import critic, rollouts, surrogate
from mmalign.parts import Parts
from mmalign.records import Experience, Loss
from mmalign.specs import Objective


def loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    lengths: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    clip: NonNegativeFloat = 0.2,
    value_clip: NonNegativeFloat = 0.2,
    value_weight: NonNegativeFloat = 0.1,
) -> Loss:
    """values: V, returns: R, others as in `grpo`, all `[B, U]` but lengths, `[B]`. value_clip: ε_v, value_weight: c."""
    found = surrogate.loss(log_probs - old_log_probs, advantages, mask, lengths, clip, clip)
    units = critic.loss(values, old_values, returns, value_clip)
    return surrogate.added(found, "value_loss", units, mask, lengths, value_weight)


def advantages(
    parts: Parts,
    experience: Experience,
    *,
    gamma: maths.Share = 1.0,
    lam: maths.Share = 0.95,
    beta: NonNegativeFloat = 0.05,
    estimator: kl.Estimator = "k1",
    whiten_rewards: bool = False,
    length: rollouts.Length = "mean",
) -> dict[str, Tensor]:
    """gamma, lam: γ, λ. beta: β. whiten_rewards: whether r is first divided by its deviation over the buffer."""
    rewards = critic.earned(parts, experience, beta, estimator, whiten_rewards)
    old_values = critic.values(parts, experience)
    mask = critic.counted(experience)
    found = maths.generalised(rewards, old_values, mask, gamma, lam)
    critics = {"old_values": old_values, "returns": found + old_values}
    return rollouts.prepared(experience, maths.whitened(found, mask), length) | critics


objective = Objective(loss, critic.terms, advantages)
