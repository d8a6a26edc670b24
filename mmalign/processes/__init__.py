"""The ways in which models generate or judge. Each turns a plugin's thin adapter into a policy with capabilities."""

from importlib import import_module
from typing import Any

from mmalign.errors import UserError, nearest

PROCESSES = {
    "denoising": "mmalign.processes.denoising:DenoisingPolicy",
    "scoring": "mmalign.processes.scoring:ScoringPolicy",
    "tokens": "mmalign.processes.tokens:TokensPolicy",
}
"""Name -> what builds the policy, imported when it is asked for."""


def process_class(name: str) -> Any:
    """The policy class of a process. It says what it `offers` (capabilities) and how it is sampled (`Sampling`)."""
    if name not in PROCESSES:
        raise UserError(f"unknown process '{name}'{nearest(name, PROCESSES)} (known: {', '.join(PROCESSES)})")
    module, _, attribute = PROCESSES[name].partition(":")
    return getattr(import_module(module), attribute)
