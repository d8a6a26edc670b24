"""TIS-DPO: token-level importance sampling. Liu et al. 2024, arXiv:2410.04350. From a re-implementation, not its code.

    L = -log σ( β [ Σ_u w_u (log p_u - log r_u)(w) - Σ_u w_u (log p_u - log r_u)(l) ] )
    w_u = k exp(s clamp(c_u, L, U)),    s = 1 for the winner, -1 for the loser,    c as in `contrast`

Units that a good answer would hold count more in the winner and less in the loser. With c = 0 this is DPO of β k.

Where it differs: c comes from two prompts to the reference (the paper's cheapest way), not from two trained models; the
optional weighted KL term is left out.
"""

from collections.abc import Iterator

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import contrast, dpo
from mmalign.parts import Batch, Parts
from mmalign.specs import Objective


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    better: contrast.Template = contrast.BETTER,
    worse: contrast.Template = contrast.WORSE,
    k: PositiveFloat = 1.0,
    lowest: float = -0.5,
    highest: float = 1.5,
) -> dict[str, Tensor]:
    """better, worse: what the reference is asked, with `{prompt}` in it. lowest, highest: L, U."""
    policy, reference, c = contrast.terms(parts, batch, rng, better, worse)
    logratios = policy.minus(reference).weighted(weights(c, k, lowest, highest)).sum()
    chosen, rejected = logratios.chunk(2)
    return {"chosen_logratios": chosen, "rejected_logratios": rejected}


def weights(c: Tensor, k: float, lowest: float, highest: float) -> Tensor:
    """w, `[2B, U]`, for winners and then losers."""
    chosen, rejected = c.clamp(lowest, highest).chunk(2)
    return k * torch.cat([chosen, -rejected]).exp()


def misfits(*, lowest: float, highest: float) -> Iterator[tuple[str, str]]:
    """Bounds that are the wrong way round."""
    if lowest > highest:
        yield (
            "lowest",
            f"{lowest:g} is above `highest`, {highest:g}, so that all units would count alike: exchange them",
        )


objective = Objective(dpo.loss, terms, misfits=misfits)
