"""A run: its folder, its state, and everything that a resume brings back.

All state goes through one door, `run.keep(name, obj)`: weights, optimiser, data position, random streams and whatever a
plugin wants to remember. A run that is killed at any step and resumed is bitwise the run that was not.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate.utils import set_seed

from mmalign import checkpoint, environment, loop
from mmalign.compose import Chosen, build, resolved, result
from mmalign.config import Config
from mmalign.console import warn
from mmalign.data.check import Readable
from mmalign.data.collect import collect
from mmalign.data.encode import fill
from mmalign.document import dump, read
from mmalign.engine import Engine
from mmalign.errors import UserError
from mmalign.feeds import Feed, Rollouts, Rows
from mmalign.parts import Parts, Source
from mmalign.streams import GlobalRandom, Stream

MAY_CHANGE = {"trainer.steps", "trainer.checkpoint_every", "trainer.keep_checkpoints", "evaluation.every", "data.cache"}
"""Keys that a resumed run may set anew: they change how long it goes on, not what a step does."""


class Stateful(Protocol):
    """What can be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings, lists and dicts only."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take it back."""
        ...


Kept = TypeVar("Kept", bound=Stateful)


class Run:
    """One run, as hooks see it.

    folder, config, parts: what it is made of. step: updates done. steps: updates to do. hook: calls every plugin.
    stopped: why it stopped early, or None.
    """

    def __init__(self, chosen: Chosen, folder: Path, engine: Engine, parts: Parts, restored: tuple[Any, Any]):
        self.chosen = chosen
        self.config: Config = chosen.config
        self.hook: Any = chosen.plugins.hook
        self.folder = folder
        self.engine = engine
        self.parts = parts
        self.step = 0
        self.steps = self.config.trainer.steps
        self.stopped: str | None = None
        self.feed: Feed
        self._shared: dict[str, Stateful] = {}
        self._local: dict[str, Stateful] = {}
        self._streams: dict[str, Stream] = {}
        self._restored_shared, self._restored_local = restored

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.engine.is_main

    def keep(self, name: str, obj: Kept, *, per_process: bool = False) -> Kept:
        """Make `obj` part of every checkpoint; when resuming, its state is put back at once. Returns `obj`.

        per_process: each process has its own state. Raises ValueError for a name that is taken.
        """
        kept, restored = (self._local, self._restored_local) if per_process else (self._shared, self._restored_shared)
        if name in kept:
            raise ValueError(f"run.keep: '{name}' is kept already")
        kept[name] = obj
        if name in restored:
            obj.load_state_dict(restored[name])
        return obj

    def stream(self, name: str) -> torch.Generator:
        """The random stream of that name: independent of all others, different on each process, kept."""
        if name not in self._streams:
            stream = Stream(f"{name}/{self.config.trainer.seed}/{self.engine.rank}")
            self._streams[name] = self.keep(f"stream/{name}", stream, per_process=True)
        return self._streams[name].generator

    def warn(self, message: str) -> None:
        """Note something that a person should know, in `warnings.jsonl`; the report shows it."""
        if self.is_main:
            with open(self.folder / "warnings.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "message": message}) + "\n")

    def checkpoint(self) -> Path:
        """Write a checkpoint of this step now, from every process."""
        root = self.folder / "checkpoints"
        if self.is_main:
            checkpoint.begin(root, self.step)
        self.engine.wait()
        partial = root / f".{checkpoint.name(self.step)}.partial"
        checkpoint.write(partial, f"rank-{self.engine.rank}.pt", _states(self._local))
        if self.is_main:
            checkpoint.write(partial, "shared.pt", {"step": self.step, **_states(self._shared)})
        self.engine.wait()
        if self.is_main:
            folder = checkpoint.finish(partial, self.step)
            self.hook.mmalign_checkpoint(run=self, folder=folder)
        self.engine.wait()
        return root / checkpoint.name(self.step)


def train(chosen: Chosen, resume: bool = False) -> Path:
    """Do the whole run and return its folder.

    Raises UserError for a folder that already holds a run (unless `resume`), or one whose config differs (when resuming).
    """
    engine = Engine(chosen.config.trainer)
    folder = run_folder(chosen.config)
    restored = engine.broadcast(_found(chosen, folder, resume) if engine.is_main else None)
    set_seed(chosen.config.trainer.seed)
    parts = build(chosen, engine.device)
    run = Run(chosen, folder, engine, parts, checkpoint.read(restored, engine.rank) if restored else ({}, {}))
    run.step = run._restored_shared.get("step", 0)
    if run.is_main:  # not before all parts are built: a mistake in one of them leaves no folder behind
        folder.mkdir(parents=True, exist_ok=True)
        dump(resolved(chosen), folder / "config.yaml")
        environment.write(run)
    try:
        _start(run)
        run.hook.mmalign_run_start(run=run)
        loop.train(run)
        if skipped := run.feed.skipped:
            warn(run, f"{len(skipped)} bad rows were left out, for example {next(iter(skipped.values()))}")
        if run.is_main:
            parts.policy.save(folder / "model")
            dump(result(chosen), folder / "model" / "mmalign.yaml")
    except BaseException as error:
        run.hook.mmalign_run_end(run=run, error=error)
        raise
    run.hook.mmalign_run_end(run=run, error=None)
    return folder


def run_folder(config: Config) -> Path:
    """`runs/<name>`."""
    return Path(config.folder) / config.name


def _start(run: Run) -> None:
    """Prepare what trains, and keep all of it."""
    config, engine, policy = run.config, run.engine, run.parts.policy
    skip = config.data.on_bad_row == "skip"

    def checked(rows: Source) -> Source:
        return Readable(rows, lambda path: run.hook.mmalign_read_media(path=path)) if skip else rows

    rows = checked(run.parts.data)
    if config.collect is not None:
        rows = checked(collect(run, config.collect, rows, skip_bad=skip))
    engine.prepare(policy)
    run.keep("policy", policy)
    run.keep("engine", engine)
    run.keep("random", GlobalRandom(), per_process=True)
    if run.parts.reward is not None:
        run.keep("reward", run.parts.reward, per_process=True)
    run.feed = run.keep("feed", _feed(run, rows, skip), per_process=True)
    if config.data.cache:
        fill(run)


def _feed(run: Run, rows: Source, skip_bad: bool) -> Feed:
    """The feed that the objective asks for."""
    trainer, engine, rollouts = run.config.trainer, run.engine, run.chosen.rollouts
    if rollouts is not None:
        return Rollouts(run, rows, rollouts, skip_bad=skip_bad)
    return Rows(rows, trainer.batch_size, trainer.seed, engine.rank, engine.world, skip_bad=skip_bad)


def _found(chosen: Chosen, folder: Path, resume: bool) -> Path | None:
    """Check what lies in the run folder. Returns the checkpoint to go on from."""
    written = folder / "config.yaml"
    if not resume:
        if written.exists():
            raise UserError(f"{folder} already holds a run: go on with --resume, or choose another name=...")
        return None
    if not written.is_file():
        raise UserError(f"nothing to resume: {folder} holds no run")
    if changed := differences(read(written), resolved(chosen), MAY_CHANGE):
        raise UserError(f"{folder} was started with another config; what differs: {', '.join(changed)}")
    found = checkpoint.found(folder / "checkpoints")
    return found[-1] if found else None


def differences(old: Any, new: Any, but: Collection[str] = (), key: str = "") -> list[str]:
    """In words, the keys in which two resolved configs differ; those of `but` may."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), but, f"{key}.{k}".lstrip("."))]
    return [] if old == new or key in but else [f"{key} ({old} -> {new})"]


def _states(kept: Mapping[str, Stateful]) -> dict[str, Any]:
    return {name: obj.state_dict() for name, obj in kept.items()}
