"""How a batch comes to be. `Rows` walks through a data set, reshuffled each epoch, and can go on where it stopped."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmalign.parts import Batch, Row, Source


class Rows:
    """An endless feed of batches from rows.

    Every process shuffles with the same seed and takes its own slice of each global batch, so the rows of an update depend
    on the global batch size alone, not on how many processes share it.

    batch_size: rows a process and call. rank, world: which process this is, of how many.
    """

    def __init__(self, rows: Source, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.rows = rows
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._order = self._shuffled()

    def __next__(self) -> Batch:
        """The next rows as a dict of lists, one list a column."""
        indices = [self._next_index() for _ in range(self.batch_size * self.world)]
        mine = indices[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        return batch_of([self.rows[i] for i in mine])

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position within it; the order follows from seed and epoch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._shuffled()

    def _next_index(self) -> int:
        if self.position == len(self._order):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffled()
        self.position += 1
        return self._order[self.position - 1]

    def _shuffled(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(len(self.rows), generator=generator).tolist()
        return order


def batch_of(rows: Sequence[Row]) -> Batch:
    """Rows as a dict of lists, one list a column."""
    return {column: [row[column] for row in rows] for column in rows[0]}
