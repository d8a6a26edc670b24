"""Identity preference optimisation. Azar et al. 2023, arXiv:2310.12036.

    L = (Δ - 1 / (2 β))²,    Δ as in `paired`, a and b means over units

The loss is lowest where the winner is ahead by 1 / (2 β), and no further: a larger β holds closer to the reference.

Where it differs: the paper writes sums; its authors confirmed means to TRL. `units: sum` gives sums.
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.maths.scales import Scale
from mmalign.objectives import paired, sides
from mmalign.parts import Batch, Parts
from mmalign.records import Loss, Units
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.1) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`."""
    values = (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    units: Units = "mean",
    dense: PositiveFloat = 1.0,
    scale: Scale | None = None,
) -> dict[str, Tensor]:
    """As `paired.terms`, averaged over units."""
    return paired.terms(parts, batch, rng, units=units, dense=dense, scale=scale)


objective = Objective(loss, terms)
