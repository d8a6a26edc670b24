"""A policy whose units have given log-probabilities, for arithmetic on objectives alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from mmalign.records import LogProbs, Rollout


class Units:
    """policy, reference: what either finds of each unit, `[N, U]`. mask: like these. changed: in which units pairs differ.

    The units of its rollouts are rows of these.
    """

    offers = frozenset({"likelihood", "exact-likelihood", "changed-units"})

    def __init__(self, policy: Tensor, reference: Tensor, mask: Tensor, changed: Tensor | None = None):
        self.policy, self.untouched, self.mask, self.differs, self.now = policy, reference, mask, changed, policy

    def encode(self, prompts, media, rng):
        return None

    def draw(self, rows, rng, copies=1):
        return None

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.now = self.untouched
        yield
        self.now = self.policy

    def log_likelihood(self, rows, draw) -> LogProbs:
        return LogProbs(self.now, self.mask)

    def replay(self, rollout: Rollout) -> LogProbs:
        return LogProbs(self.now[list(rollout.units)], self.mask[list(rollout.units)])

    def changed(self, rows):
        return self.differs
