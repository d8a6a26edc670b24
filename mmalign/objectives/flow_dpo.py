"""Flow-DPO. Liu et al. 2025 (Improving video generation with human feedback), arXiv:2501.13918.

    L = -log σ( -β/2 [ (m_w - m_l) - (r_w - r_l) ] )
    m = mean_D (v_θ(x_t) - v)²,  r = the same for the reference,  (t, noise) shared by winner and loser

This is `dpo` where log p = -m/2, as in `diffusion_dpo`, on velocities. β is the same at all times: the paper found it
better than β (1 - t)², which would be exactly Diffusion-DPO.

Where it differs:
1. m is a mean over dimensions; the paper's pseudo-code sums, with the same β of 500.
2. Times are drawn as the model was trained; the paper draws them uniformly.
3. The network may predict anything: m is taken against what it does predict.
"""

from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import dpo, paired
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 500.0) -> Loss:
    """chosen_logratios, rejected_logratios: (r - m) / 2, `[B]`."""
    return dpo.loss(chosen_logratios, rejected_logratios, beta=beta)


objective = Objective(loss, paired.terms)
