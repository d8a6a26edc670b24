"""What a generating model was taught to prefer, as a reward. Rafailov et al. 2023, arXiv:2305.18290.

    r(x) = log p(x) - log r(x)

is, but for a factor and what is the same for all samples of a prompt, the reward whose optimum is p when r is the reference.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import PositiveInt
from torch import Tensor

from mmalign import options, plugins
from mmalign.errors import UserError
from mmalign.processes import process_class
from mmalign.processes.policy import evaluating
from mmalign.records import Samples


class Implicit:
    """How much likelier a sample is to a trained model than to the one it was trained from: what it likes, in its own words.

    model, reference: as the `model` of a config, of an installed plugin, for example {type: vlm, path: "${previous.model}"}.
    draws: how many draws a likelihood is averaged over that is a surrogate; all samples share them.
    """

    def __init__(self, model: dict[str, Any], reference: dict[str, Any], draws: PositiveInt = 1):
        self.policy, self.reference = policy_of("model", model), policy_of("reference", reference)
        self.draws = draws

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        for policy in (self.policy, self.reference):
            policy.model = policy.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`."""
        if len(samples) == 0:
            return torch.zeros(0)
        return torch.stack([self._ratio(samples, seed) for seed in range(self.draws)]).mean(dim=0)

    def _ratio(self, samples: Samples, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        rows = self.policy.encode(samples.prompts, list(samples.made), rng)
        draw = self.policy.draw(rows, rng, copies=len(samples))
        with evaluating(self.policy.network), evaluating(self.reference.network):
            policy, reference = (one.log_likelihood(rows, draw) for one in (self.policy, self.reference))
        ratio: Tensor = policy.minus(reference).sum()
        return ratio


def policy_of(key: str, given: Mapping[str, Any], sampling: Mapping[str, Any] | None = None) -> Any:
    """The model that a section of a config names, inside its process. sampling: the options of that."""
    model = dict(given)
    if "type" not in model:
        raise UserError(f"{key}: missing `type`: write it as the `model` of a config")
    spec = plugins.find("model", model.pop("type")).spec
    process = process_class(spec.process)
    if "likelihood" not in process.offers:
        raise UserError(f"{key}: model '{spec.name}' scores and makes no samples, so it finds none likely")
    return process(spec.load()(**options.parsed(spec, model)), process.Sampling(**(sampling or {})))
