"""The path of a run, in words: which function of which file does what, for `mmalign plan`."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmalign import collecting, feeds, judging, loop, run
from mmalign.choices import Choice
from mmalign.collection import ChosenCollection
from mmalign.compose import Chosen
from mmalign.data import collect


@dataclass(frozen=True)
class Stage:
    """One line of the plan. where: "file.py:12 function"."""

    name: str
    what: str
    where: str


def path(chosen: Chosen | ChosenCollection) -> Iterator[Stage]:
    """What a run or a collection does, in order."""
    return stages(chosen) if isinstance(chosen, Chosen) else of_collection(chosen)


def stages(chosen: Chosen) -> Iterator[Stage]:
    """What a run of this config does, in order."""
    config, trainer = chosen.config, chosen.config.trainer
    yield Stage("data", _named(chosen.data), place(chosen.data.offer.spec.load()))
    for choice in chosen.rewards:
        yield Stage("reward", _named(choice), place(choice.offer.spec.load()))
    yield Stage("model", _named(chosen.model), place(chosen.model.offer.spec.load()))
    yield Stage("process", f"{chosen.model.offer.spec.process}: {_options(chosen.sampling)}", place(chosen.process))
    if config.collect is not None:
        kept = {"pairs": "best against worst", "best": "the best one kept", "all": "all of them kept"}
        what = f"{config.collect.samples_per_prompt} samples a prompt, scored, {kept[config.collect.keep]}"
        yield Stage("collect", what, place(collect.collect))
    if measures := (*chosen.judges, *chosen.metrics):
        yield Stage("evaluate", f"before, every {config.evaluation.every or 'never'}, after", _named(*measures))
    if chosen.guidance:
        yield Stage("guidance", _named(chosen.guidance, *chosen.leads), place(chosen.guidance.offer.spec.load()))
    if chosen.held_out:
        yield Stage("held out", _named(chosen.held_out), place(chosen.held_out.offer.spec.load()))
    objective = chosen.objective.offer.spec.load()
    if (buffer := chosen.rollouts) is not None:
        what = (
            f"{buffer.prompts} prompts x {buffer.samples_per_prompt} samples a process, scored, {buffer.epochs} passes"
        )
        yield Stage("rollouts", what, place(feeds.Rollouts))
        yield Stage("  advantages", "once a buffer", place(objective.advantages))
    yield Stage("loop", f"{trainer.steps} updates of {_batch(chosen)}", place(loop.train))
    yield Stage("  terms", _named(chosen.objective), place(objective.terms))
    yield Stage("  loss", _options(chosen.objective.options), place(objective.loss))
    yield Stage("  step", f"{trainer.optimizer}, learning rate {trainer.learning_rate:g}", place(loop.update))
    yield Stage("result", str(run.run_folder(config)), place(run.train))


def of_collection(chosen: ChosenCollection) -> Iterator[Stage]:
    """What a collection does, in order."""
    yield Stage("data", _named(chosen.data), place(chosen.data.offer.spec.load()))
    if chosen.model is not None and chosen.process is not None:
        yield Stage("model", _named(chosen.model), place(chosen.model.offer.spec.load()))
        count = chosen.config.collect.samples_per_prompt
        yield Stage("answers", f"{count} a prompt: {_options(chosen.sampling)}", place(chosen.process))
    else:
        yield Stage("answers", f"those of the data: {', '.join(chosen.columns)}", place(chosen.data.offer.spec.load()))
    facts = chosen.facts or chosen.judge
    yield Stage("facts", _named(facts), place(facts.offer.spec.load()))
    yield Stage("verdicts", _named(chosen.judge), place(chosen.judge.offer.spec.load()))
    yield Stage("labels", ", ".join(judging.CLASSES), place(judging.label))
    yield Stage("result", str(chosen.folder / collecting.RESULT), place(collecting.collect))


def place(thing: Callable[..., Any]) -> str:
    """Where a function or class is defined: `mmalign/loop.py:14 train`, relative to the current folder if below it."""
    thing = thing.func if isinstance(thing, partial) else thing
    path = Path(inspect.getsourcefile(thing) or "?")
    line = inspect.getsourcelines(thing)[1]
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{short}:{line} {thing.__qualname__}"


def _named(*choices: Choice) -> str:
    return ", ".join(
        f"{c.offer.spec.name} ({_options(c.options)})" if c.options else c.offer.spec.name for c in choices
    )


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())


def _batch(chosen: Chosen) -> str:
    trainer = chosen.config.trainer
    accumulated = f" x {trainer.gradient_accumulation}" if trainer.gradient_accumulation > 1 else ""
    return f"{trainer.batch_size}{accumulated} rows a process"
