"""Where the arguments of objectives on pairs come from. Each loss is a function of the log-ratios

    a = log p_w - log r_w,    b = log p_l - log r_l,    Δ = a - b

with p the policy's and r the reference's likelihood of the winner (w, chosen) and the loser (l, rejected). Where that
is a surrogate at a random draw, both sides and both models share the draw; it is small, so that β is in the thousands.

All these objectives have the options
    units: whether a sample's log-probability is the sum or the mean of its units'.
    dense: how many times a unit counts in which the sides differ, if the model can tell (`rlhf_v`).
    scale: multiplies a and b, which is scaling β where β comes with them (`mmalign.maths.scales`).
"""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mmalign.maths.scales import Scale
from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import Units


def terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    units: Units = "sum",
    dense: PositiveFloat = 1.0,
    scale: Scale | None = None,
) -> dict[str, Tensor]:
    """a and b, `[B]`, from one forward of the reference and one of the policy, `[2B]` each."""
    found = supervised_terms(parts, batch, rng, units=units, dense=dense, scale=scale)
    return {name: found[name] for name in ("chosen_logratios", "rejected_logratios")}


def supervised_terms(
    parts: Parts,
    batch: Batch,
    rng: torch.Generator,
    *,
    units: Units = "sum",
    dense: PositiveFloat = 1.0,
    scale: Scale | None = None,
) -> dict[str, Tensor]:
    """The same and `log_probs`, `[B]`: the mean of log p_w over its units, for a supervised term beside the preference."""
    rows, draw = sides.encoded(parts, batch, rng)
    policy, reference = sides.both(parts.policy, rows, draw)
    ratios = sides.dense(policy.minus(reference), parts.policy, rows, dense)
    a, b = ratios.reduced(units).chunk(2)
    found = {"chosen_logratios": a, "rejected_logratios": b, "log_probs": policy.mean().chunk(2)[0]}
    return sides.scaled(found, scale, batch, rng)
