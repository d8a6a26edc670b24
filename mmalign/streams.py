"""Random streams that can be kept: what makes a resumed run draw the numbers that the uninterrupted one would have drawn."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class Stream:
    """A CPU random generator whose state can be kept. seed: any text."""

    def __init__(self, seed: str):
        # The text's own bytes, so that streams of different names never share a seed.
        self.generator = torch.Generator().manual_seed(int.from_bytes(seed.encode(), "little") % (2**63 - 25))

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        self.generator.set_state(state["state"])


class GlobalRandom:
    """The process-wide random states (dropout, libraries), as something to keep."""

    def state_dict(self) -> dict[str, Any]:
        """torch, its accelerators, numpy and Python."""
        kind, keys, *rest = np.random.get_state(legacy=True)
        numpy_state = [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest]
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": numpy_state,
            "python": list(random.getstate()[1]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        random.setstate((3, tuple(state["python"]), None))
