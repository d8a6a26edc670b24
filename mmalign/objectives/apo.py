"""Anchored preference optimisation. D'Oosterlinck et al. 2024, arXiv:2408.06266.

    zero  L = 1 - σ(β a) + σ(β b)         winners become likelier, losers less likely
    down  L = σ(β a) + 1 - σ(β Δ)         both become less likely, losers more so

a, b, Δ as in `paired`. Take `zero` if the winners are better than what the model makes, `down` if they are worse.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from mmalign.objectives import paired, sides
from mmalign.records import Loss
from mmalign.specs import Objective

Towards = Literal["zero", "down"]


def zero(chosen: Tensor, rejected: Tensor) -> Tensor:
    """chosen, rejected: β a, β b, `[B]`."""
    return (-chosen).sigmoid() + rejected.sigmoid()


def down(chosen: Tensor, rejected: Tensor) -> Tensor:
    """chosen, rejected: β a, β b, `[B]`."""
    return chosen.sigmoid() + (rejected - chosen).sigmoid()


_FORMULAS: dict[Towards, Callable[[Tensor, Tensor], Tensor]] = {"zero": zero, "down": down}


def loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 0.1, towards: Towards = "zero"
) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, `[B]`. towards: which formula."""
    values = _FORMULAS[towards](beta * chosen_logratios, beta * rejected_logratios)
    return sides.judged(values, chosen_logratios, rejected_logratios, beta)


objective = Objective(loss, paired.terms)
