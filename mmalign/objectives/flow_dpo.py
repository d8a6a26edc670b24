"""Flow-DPO. Liu et al. 2025 (Improving video generation with human feedback), arXiv:2501.13918.

    L = -log σ( -β_t/2 [ (m_w - m_l) - (r_w - r_l) ] )
    m = mean_D (v_θ(x_t) - v)²,  r = the same for the reference,  (t, noise) shared by winner and loser

This is `dpo` where log p = -m/2, as in `diffusion_dpo`, on velocities. β_t = β at all times; the paper found that better than
`schedule: (1-t)^2`, β_t = β (1 - t)², which would be exactly Diffusion-DPO of the noise: it gives the late, clean times all the
weight, and text alignment suffers.

Where it differs:
1. m is a mean over dimensions; the paper's pseudo-code sums, with the same β of 500.
2. Times are drawn as the model was trained; the paper draws them uniformly.
3. The network may predict anything: m is taken against what it does predict. On a diffusion path the schedule is ᾱ_t, which
   does the same for a network that predicts v.
"""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.scales import Scale
from mmalign.objectives import dpo, sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 500.0) -> Loss:
    """chosen_logratios, rejected_logratios: (r - m) / 2, times β_t / β, `[B]`."""
    return dpo.loss(chosen_logratios, rejected_logratios, beta=beta)


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    schedule: Literal["constant", "(1-t)^2"] = "constant",
    scale: Scale | None = None,
) -> dict[str, Tensor]:
    """schedule: β_t / β. scale: multiplies both log-ratios (`mmalign.maths.scales`)."""
    rows, draw = sides.encoded(parts, batch, rng)
    policy, reference = sides.both(parts.policy, rows, draw)
    ratios = policy.minus(reference)
    if schedule != "constant":
        if "timed" not in parts.policy.offers:
            raise UserError(f"objective.schedule: '{schedule}' is for models that denoise; leave it at constant")
        ratios = ratios.weighted(parts.policy.signal(draw)[:, None])
    chosen, rejected = ratios.sum().chunk(2)
    return sides.scaled({"chosen_logratios": chosen, "rejected_logratios": rejected}, scale, batch, rng)


objective = Objective(loss, terms)
