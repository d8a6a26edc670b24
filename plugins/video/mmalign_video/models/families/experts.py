"""Two denoisers that share the work: one where noise prevails, the other where the video does."""

from typing import Any

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """Wan 2.2's pair of transformers as one: `noisy` answers for timesteps of at least `boundary`, `clean` for all below.

    Each sample of a batch goes to its own, so that in training, where times are drawn, both learn. It is called as the
    transformers are.
    """

    def __init__(self, noisy: nn.Module, clean: nn.Module, boundary: float):
        super().__init__()
        self.noisy, self.clean, self.boundary = noisy, clean, boundary

    def forward(self, hidden_states: Tensor, timestep: Tensor, **told: Any) -> tuple[Tensor]:
        """The output like `hidden_states` `[B, ...]`. timestep: `[B]`. told: tensors, batch first, and switches."""
        noisy = timestep >= self.boundary
        if noisy.all():
            return (self.noisy(hidden_states, timestep, **told)[0],)
        if not noisy.any():
            return (self.clean(hidden_states, timestep, **told)[0],)
        parts = [(rows, self._asked(expert, rows, hidden_states, timestep, told)) for expert, rows in self._rows(noisy)]
        rows, outputs = zip(*parts, strict=True)
        # Back in the order in which they came.
        return (torch.cat(outputs)[torch.cat(rows).argsort()],)

    def _rows(self, noisy: Tensor) -> list[tuple[nn.Module, Tensor]]:
        return [(self.noisy, noisy.nonzero()[:, 0]), (self.clean, (~noisy).nonzero()[:, 0])]

    @staticmethod
    def _asked(expert: nn.Module, rows: Tensor, x: Tensor, timestep: Tensor, told: dict[str, Any]) -> Tensor:
        own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in told.items()}
        output: Tensor = expert(x[rows], timestep[rows], **own)[0]
        return output
