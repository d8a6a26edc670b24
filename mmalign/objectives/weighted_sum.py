"""A weighted sum of losses on the same pairs, from the same forwards.

    L = Σ_i w_i L_i

Each key of `losses` names an objective; beside its `weight` stand the options of its loss. For example MPO (Wang et al.
2024, arXiv:2411.10442) is {dpo: {weight: 0.8}, bco: {weight: 0.2, beta: 0.1}, sft: {weight: 1}}, where `sft` is of the
winner, a mean over its units.
"""

from collections.abc import Callable
from inspect import signature
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from mmalign.errors import nearest
from mmalign.faults import validated
from mmalign.objectives import anchor, apo, bco, discopop, dpo, exo, hinge, ipo, nca, paired, robust, sft, sppo
from mmalign.options import schema_of
from mmalign.records import Loss
from mmalign.specs import Objective

_MODULES = (anchor, apo, bco, discopop, dpo, exo, hinge, ipo, nca, robust, sft, sppo)
LOSSES: dict[str, Callable[..., Loss]] = {module.__name__.rpartition(".")[2]: module.loss for module in _MODULES}


def _weight(*, weight: float) -> dict[str, Tensor]:
    """The option that each loss has here beside its own."""
    return {}


def _checked(losses: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name, options in losses.items():
        if name not in LOSSES:
            raise ValueError(f"unknown loss '{name}'{nearest(name, LOSSES) or '; known: ' + ', '.join(LOSSES)}")
        _, faults = validated(schema_of(Objective(LOSSES[name], _weight)), options)
        if faults:
            raise ValueError("; ".join(f"{name}.{key}: {message}" for key, message in faults))
    return losses


Losses = Annotated[dict[str, dict[str, Any]], AfterValidator(_checked), Field(min_length=1)]


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, log_probs: Tensor, *, losses: Losses) -> Loss:
    """chosen_logratios, rejected_logratios: a, b, log_probs: the winner's, a unit; all `[B]`. losses: w and options."""
    given = {"chosen_logratios": chosen_logratios, "rejected_logratios": rejected_logratios, "log_probs": log_probs}
    total, metrics = torch.zeros_like(chosen_logratios), dict[str, Tensor]()
    for name, options in losses.items():
        function, own = LOSSES[name], {key: value for key, value in options.items() if key != "weight"}
        found = function(**{key: given[key] for key in signature(function).parameters if key in given}, **own)
        total = total + options["weight"] * found.values
        metrics |= {f"{name}_{key}": value for key, value in found.metrics.items()}
        metrics[name] = found.values.detach().mean()
    return Loss(total, metrics)


objective = Objective(loss, paired.supervised_terms)
