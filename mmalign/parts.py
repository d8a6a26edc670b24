"""What a run is made of, once it is built. Objectives see nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from mmalign.records import Answer, Fact, Prompt, Samples, Scores, Verdict
from mmalign.specs import Objective

Row = Mapping[str, Any]
Batch = Mapping[str, Any]
"""What a feed gives: a list a column for rows, a `Rollout` and tensors for rollouts."""


class Source(Protocol):
    """Rows by index, made when they are asked for."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int, /) -> Row:
        """One row: a dict with the named columns."""
        ...


class Policy(Protocol):
    """What every process that makes samples makes of an adapter. Capabilities beyond this are named in `offers`."""

    offers: frozenset[str]
    network: nn.Module
    """The module that trains; the engine may put a wrapped one in its place."""

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One sample a prompt, without gradient; each depends on its own seed alone."""
        ...

    def sampled(self, sampling: Any) -> AbstractContextManager[None]:
        """Within it samples are drawn in another way: `sampling` is a record of the process's options."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Within it the policy is the untouched model."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The trainable weights."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take trainable weights back."""
        ...

    def save(self, folder: Path) -> None:
        """Write the result in the ecosystem's own format."""
        ...


class Reward(Protocol):
    """A callable on samples, checked: it always gives `Scores` with values `[B]`."""

    def __call__(self, samples: Samples) -> Scores:
        """Score `B` samples, higher is better."""
        ...


class FactJudge(Protocol):
    """What a judge of answers gives, or the half of it that its spec offers.

    It may have `to(device)`, and `spent()`: what it has cost since it was built, numbers by name.
    """

    def facts(self, answers: Sequence[Answer]) -> Sequence[Sequence[Sequence[Fact] | None]]:
        """By answer and by piece of it the facts that it claims; None where the judge could not tell."""
        ...

    def verify(self, questions: Sequence[tuple[Prompt, Fact]]) -> Sequence[Verdict]:
        """Whether each fact is true of what its prompt shows."""
        ...


class Asks(Protocol):
    """A judge that answers in words."""

    def ask(self, prompts: Sequence[Prompt]) -> Sequence[str | None]:
        """What it says to each prompt; None where it does not answer."""
        ...


@dataclass(frozen=True)
class Judge:
    """A reward that evaluates. role: "trained" if the run optimises it, else "held-out"."""

    role: str
    reward: Reward


Counts = Mapping[str, float]
"""By name, what was counted. What is not named counts 0."""


class Metric(Protocol):
    """Numbers of all samples of an evaluation together, for example precision: each is a formula of sums over the samples.

    So samples may be counted in batches, on several processes and by judges that fail on some, and every number has a
    standard error (`mmalign.builtin.statistics.estimates`).
    """

    def counts(self, samples: Samples) -> Sequence[Counts | None]:
        """What is counted of each of `B` samples; None where one could not be measured. Every count is finite.

        A metric whose spec asks for a judge gets it as a second argument: `counts(samples, judge)`.
        """
        ...

    def numbers(self, sums: Counts) -> Counts:
        """The numbers, by name, of what was counted of all samples. Where nothing was counted a ratio is 0, not an error."""
        ...


@dataclass(frozen=True)
class Parts:
    """policy × feedback × objective, and what evaluates them.

    policy: typed loosely, since its capabilities beyond `Policy` depend on its process.
    reward: the weighted sum of the config's `rewards`, or None without any.
    data: a sequence of rows.
    metrics: what is counted over the evaluation's samples, by name.
    guidance: what leads the evaluation's samples after training (`mmalign.guidance.Lead`), if anything does.
    held_out: rows that are not trained on, of which the objective's loss and metrics are taken.
    """

    policy: Any
    objective: Objective
    data: Source
    reward: Any = None
    judges: Mapping[str, Judge] | None = None
    evaluation_prompts: Sequence[Prompt] = ()
    held_out: Source | None = None
    metrics: Mapping[str, Metric] | None = None
    guidance: Any = None
