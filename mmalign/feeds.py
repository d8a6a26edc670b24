"""How a batch comes to be: from the rows of a data set, or from samples that the model makes itself. Both feeds are endless
and can go on where they stopped.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mmalign.config import Rollouts as Options
from mmalign.console import warn
from mmalign.errors import BadRow, UserError
from mmalign.maths.advantages import tied
from mmalign.parts import Batch, Row, Source
from mmalign.processes.policy import without_dropout
from mmalign.records import Experience, LogProbs, Rollout, Samples, Scores

if TYPE_CHECKING:
    from mmalign.run import Run


class Feed(Protocol):
    """What the loop takes its batches from.

    rows: all that there are. rows_per_batch: how many new ones a batch of all processes takes, on average.
    skipped: why rows were left out, by their index.
    """

    rows: Source

    @property
    def skipped(self) -> Mapping[int, str]:
        """Those."""
        ...

    @property
    def rows_per_batch(self) -> float:
        """That average."""
        ...

    def __next__(self) -> Batch:
        """The next batch."""
        ...

    def ahead(self, batches: int) -> Collection[int]:
        """Which rows the next batches are made of. They still come next afterwards."""
        ...

    def drain(self) -> dict[str, Tensor]:
        """Scalars about what was made since the last drain."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        ...


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

    @property
    def rows_per_batch(self) -> float:
        """Rows of a batch of all processes."""
        return self.batch_size * self.world

    def __next__(self) -> Batch:
        """The next rows as a dict of lists, one list a column."""
        return batch_of([self.rows[i] for i in self.draw()])

    def ahead(self, batches: int) -> Collection[int]:
        """Which rows the next batches are made of."""
        twin = copy(self)
        return dict.fromkeys(index for _ in range(batches) for index in twin.draw()).keys()

    def draw(self) -> list[int]:
        """The indices of the next rows."""
        indices = [self._next_index() for _ in range(self.batch_size * self.world)]
        mine = indices[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        return [self._good(i) for i in mine] if self.skip_bad else mine

    def drain(self) -> dict[str, Tensor]:
        """Nothing is made."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position within it; the order follows from seed and epoch. And what was left out."""
        return {"epoch": self.epoch, "position": self.position, "skipped": dict(self.skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.skipped = dict(state.get("skipped", {}))
        self._order = self._shuffled()

    def _good(self, index: int) -> int:
        """That row, or the next good one. Which one that is depends on the data alone, so that processes stay in step."""
        for i in (j % len(self.rows) for j in range(index, index + len(self.rows))):
            try:
                self.rows[i]
                return i
            except BadRow as error:
                self.skipped[i] = str(error)
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


def batch_of(rows: Sequence[Row]) -> Batch:
    """Rows as a dict of lists, one list a column."""
    return {column: [row[column] for row in rows] for column in rows[0]}


class Rollouts:
    """An endless feed of batches from buffers: sample, score, work out advantages, hand out some samples at a time.

    A batch holds some samples as its "rollout" (a `Rollout`), and their rows of what the objective's `advantages` made of
    the buffer. A buffer is of one process, and so is all that is compared within it.
    """

    def __init__(self, run: "Run", rows: Source, options: Options, *, skip_bad: bool = False):
        trainer, engine = run.config.trainer, run.engine
        if run.parts.objective.advantages is None:
            raise UserError(
                f"objective: {run.config.objective.type} is on rollouts, so its Objective must have `advantages`"
            )
        self._advantages = run.parts.objective.advantages
        if dropped := without_dropout(run.parts.policy.network):
            warn(
                run,
                f"rollouts: dropout of {dropped} layers is off, for the likelihood of samples now and then is compared",
            )
        self._neighbours = run.chosen.objective.offer.spec.neighbours
        self.rows = rows
        self.options = options
        self.batch_size = trainer.batch_size
        self._run = run
        self._prompts = Rows(rows, options.prompts, trainer.seed, engine.rank, engine.world, skip_bad=skip_bad)
        self._rng = run.stream("rollouts")
        self._asked: list[int] = []
        self._rollout: Rollout | None = None
        self._worked_out: dict[str, Tensor] = {}
        self._passes = 0
        self._order: list[int] = []
        self._past: dict[int, list[float]] = {}
        self._metrics: dict[str, Tensor] = {}

    @property
    def skipped(self) -> Mapping[int, str]:
        """Why prompts were left out, by their index."""
        return self._prompts.skipped

    @property
    def rows_per_batch(self) -> float:
        """Prompts, which a buffer shares among its batches."""
        samples = self.batch_size * self._run.engine.world
        return samples / (self.options.samples_per_prompt * self.options.epochs)

    def __next__(self) -> Batch:
        """The next samples of the buffer, which is made anew when every pass over it is done."""
        if not self._order:
            if self._passes == 0:
                self._rollout, self._passes = self._made(), self.options.epochs
            self._passes -= 1
            self._order = self._shuffled()
        now, self._order = self._order[: self.batch_size], self._order[self.batch_size :]
        return {"rollout": self._buffer.picked(now), **{name: rows[now] for name, rows in self._worked_out.items()}}

    def ahead(self, batches: int) -> Collection[int]:
        """Which prompts the next batches are answers to: those of this buffer, and of the ones that will be made."""
        options = self.options
        samples = options.prompts * options.samples_per_prompt * options.epochs
        return {*self._asked, *self._prompts.ahead(math.ceil(batches * self.batch_size / samples))}

    def drain(self) -> dict[str, Tensor]:
        """Of a new buffer: mean and deviation of the reward, units a sample, and how many samples and groups tell nothing."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The buffer too: today's weights would not make it again."""
        return {
            "prompts": self._prompts.state_dict(),
            "asked": self._asked,
            "rollout": None if self._rollout is None else _plain(self._rollout),
            "worked_out": self._worked_out,
            "passes": self._passes,
            "order": self._order,
            "past": self._past,
            "updates": self._run.parts.policy.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        state = _placed(dict(state), self._run.engine.device)
        self._prompts.load_state_dict(state["prompts"])
        self._asked, self._worked_out, self._past = state["asked"], state["worked_out"], state["past"]
        self._run.parts.policy.updates = state.get("updates", 0)
        self._passes, self._order = state["passes"], state["order"]
        self._rollout = None
        if (kept := state["rollout"]) is not None:
            samples = Samples(self._repeated(), kept["made"], kept["seeds"], kept.get("frame_rate"))
            self._rollout = Rollout(samples, LogProbs(kept["log_probs"], kept["mask"]), kept["units"])

    def _shuffled(self) -> list[int]:
        """The buffer's samples in a new order, in which neighbours stay neighbours."""
        together = torch.arange(len(self._buffer)).reshape(-1, self._neighbours)
        order: list[int] = together[torch.randperm(len(together), generator=self._rng)].flatten().tolist()
        return order

    @property
    def _buffer(self) -> Rollout:
        assert self._rollout is not None
        return self._rollout

    @torch.no_grad()
    def _made(self) -> Rollout:
        """A new buffer, and what the objective makes of it."""
        run, options = self._run, self.options
        run.parts.policy.updates = run.step
        self._asked = self._prompts.draw()
        with run.engine.autocast():  # as the updates will, so that both find the same log-probabilities
            rollout = self._sampled()
        scores = run.parts.reward(rollout.samples, options.samples_per_prompt, options.batch_size)
        scores = _placed_like(scores, rollout.log_probs.values)
        experience = Experience(
            rollout, scores, options.samples_per_prompt, options.batch_size, self._remembered(scores)
        )
        with run.engine.autocast():
            self._worked_out = self._advantages(run.parts, experience)
        self._metrics = summary(experience)
        run.hook.mmalign_rollout(run=run, rollout=rollout, scores=scores)
        return rollout

    def _repeated(self) -> list[Any]:
        """The prompts of the buffer's samples."""
        asked = [self.rows[index]["prompt"] for index in self._asked]
        return [prompt for prompt in asked for _ in range(self.options.samples_per_prompt)]

    def _sampled(self) -> Rollout:
        prompts, size = self._repeated(), self.options.batch_size
        seeds = torch.randint(2**62, (len(prompts),), generator=self._rng).tolist()
        group, policy = self.options.samples_per_prompt, self._run.parts.policy
        starts = [seeds[i - i % group] for i in range(len(seeds))]

        def rollout(own: slice) -> Rollout:
            shared = {"starts": starts[own]} if self.options.shared_noise else {}
            made: Rollout = policy.rollout(prompts[own], seeds[own], **shared)
            return made

        return Rollout.joined([rollout(slice(i, i + size)) for i in range(0, len(prompts), size)])

    def _remembered(self, scores: Scores) -> list[list[float]]:
        """By sample the scores of its prompt until now, after these are added."""
        if not self.options.history:
            return []
        groups = scores.values.reshape(-1, self.options.samples_per_prompt)
        for index, group in zip(self._asked, groups, strict=True):
            past = [*self._past.get(index, []), *group[group.isfinite()].tolist()]
            self._past[index] = past[-self.options.history :]
        return [self._past[index] for index in self._asked for _ in range(self.options.samples_per_prompt)]


def summary(experience: Experience) -> dict[str, Tensor]:
    """What a buffer is like, as scalars."""
    values, mask = experience.scores.values, experience.rollout.log_probs.mask
    known = values[values.isfinite()]
    spread = known.std(correction=0) if len(known) else values.new_tensor(torch.nan)
    found = {
        "reward/mean": known.mean(),
        "reward/std": spread,
        "rollout/units": (mask > 0).sum(dim=1).to(values).mean(),
        "rollout/unscored": values.new_tensor(len(values) - len(known)),
    }
    if experience.group > 1:
        found["rollout/tied_groups"] = tied(values, experience.group).to(values).sum()
    return found


def _plain(rollout: Rollout) -> dict[str, Any]:
    """All but the prompts, which the data hold."""
    samples, log_probs = rollout.samples, rollout.log_probs
    made = samples.made if isinstance(samples.made, Tensor) else list(samples.made)
    return {
        "made": made,
        "seeds": list(samples.seeds),
        "frame_rate": samples.frame_rate,
        "units": list(rollout.units),
        "log_probs": log_probs.values,
        "mask": log_probs.mask,
    }


def _placed(value: Any, device: torch.device) -> Any:
    """The tensors in lists, tuples and dicts on a device; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _placed(inner, device) for key, inner in value.items()}
    return type(value)(_placed(inner, device) for inner in value) if isinstance(value, list | tuple) else value


def _placed_like(scores: Scores, like: Tensor) -> Scores:
    """Scores of the type and on the device of `like`."""
    units = None if scores.units is None else scores.units.to(like)
    return replace(scores, values=scores.values.to(like), units=units)
