"""How a batch comes to be. `Rows` walks through a data set, reshuffled each epoch, and can go on where it stopped."""

from collections.abc import Mapping
from typing import Any

import torch

from mmalign.errors import BadRow, UserError
from mmalign.parts import Batch, Row, Source


class Rows:
    """An endless feed of batches from rows.

    Every process shuffles with the same seed and takes its own slice of each global batch, so the rows of an update depend
    on the global batch size alone, not on how many processes share it.

    batch_size: rows a process and call. rank, world: which process this is, of how many. skip_bad: the row after a bad one
    takes its place; else a bad row is raised. skipped: why rows were left out, by their index.
    """

    def __init__(
        self, rows: Source, batch_size: int, seed: int, rank: int = 0, world: int = 1, *, skip_bad: bool = False
    ):
        self.rows = rows
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.skip_bad = skip_bad
        self.skipped: dict[int, str] = {}
        self.epoch = 0
        self.position = 0
        self._order = self._shuffled()

    def __next__(self) -> Batch:
        """The next rows as a dict of lists, one list a column."""
        indices = [self._next_index() for _ in range(self.batch_size * self.world)]
        mine = indices[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        rows = [self._row(i) for i in mine]
        return {column: [row[column] for row in rows] for column in rows[0]}

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position within it; the order follows from seed and epoch. And what was left out."""
        return {"epoch": self.epoch, "position": self.position, "skipped": dict(self.skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.skipped = dict(state.get("skipped", {}))
        self._order = self._shuffled()

    def _row(self, index: int) -> Row:
        """The row, or the next good one. Which one that is depends on the data alone, so that processes stay in step."""
        for i in range(index, index + len(self.rows)):
            try:
                return self.rows[i % len(self.rows)]
            except BadRow as error:
                if not self.skip_bad:
                    raise
                self.skipped[i % len(self.rows)] = str(error)
        raise UserError(f"every row is bad, for example {next(iter(self.skipped.values()))}")

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
