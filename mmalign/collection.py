"""Documents that collect feedback: a judge labels the segments of answers, a model's own or those of data.

    name: feedback
    model: {type: vlm, path: llava-hf/llava-1.5-7b-hf}     # what answers; without one the data's own answers are judged
    data: {type: text-prompts, path: prompts.jsonl}
    judge: {type: http, url: "http://localhost:8000/v1", model: a-judge}
    facts: {type: vlm, path: another-model}                # what finds the facts; the judge itself by default
    sampling: {temperature: 0.7}
    collect: {samples_per_prompt: 1}

In a document with `stages:` a stage with a `judge` is such a document: of the keys at the top it has those named here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign import compose
from mmalign.choices import Choice, Picker
from mmalign.collected import Collection, is_collection
from mmalign.compose import Chosen, complete_sampling, process_of
from mmalign.document import Source, read_source
from mmalign.errors import UserError
from mmalign.faults import Fault, validated
from mmalign.plugins import Plugins

ANSWERS = ("sample", "chosen", "rejected")
"""Columns of data that hold answers."""


@dataclass(frozen=True)
class CollectionDocument:
    """A checked config and where it comes from. Paths in `plugins` are absolute."""

    config: Collection
    source: Source


@dataclass(frozen=True)
class ChosenCollection:
    """Everything that a collection asks for, found and checked, nothing built."""

    document: CollectionDocument
    plugins: Plugins
    model: Choice | None
    data: Choice
    judge: Choice
    facts: Choice | None
    process: type[Any] | None
    sampling: dict[str, Any]

    @property
    def config(self) -> Collection:
        """The checked document."""
        return self.document.config

    @property
    def folder(self) -> Path:
        """`runs/<name>`."""
        return Path(self.config.folder) / self.config.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the data whose answers are judged; none where a model answers."""
        columns = self.data.offer.spec.columns
        return () if self.model else tuple(name for name in ANSWERS if name in columns)


def load(path: Path, overrides: Sequence[str] = ()) -> CollectionDocument:
    """Read and check a config of a collection with `key=value` overrides. Raises UserError for a config of something else."""
    source = read_source(path, overrides)
    if "stages" in source.data:
        raise UserError(f"{path} holds stages: mmalign train {path} does those that collect, too")
    if not is_collection(source.data):
        raise UserError(f"{path} names no `judge`: add one, or train it with mmalign train {path}")
    document = checked(source)
    if faults := list(_idle(document.config)):
        raise source.refusal(faults)
    return document


def _idle(config: Collection) -> Iterator[Fault]:
    """What is said of a model's answers where no model answers. A stage may have it from the top, for others."""
    if config.model is None:
        if config.sampling:
            yield "sampling", "there is no `model` that would answer: name one, or leave it out"
        if config.collect.samples_per_prompt != 1:
            yield (
                "collect.samples_per_prompt",
                "there is no `model` that would answer: each answer of the data is judged once",
            )


def checked(source: Source) -> CollectionDocument:
    """As `load`, for what was read already."""
    config, faults = validated(Collection, source.data)
    if config is None or source.unusable or source.repeated:
        raise source.refusal([*faults, *source.repeated])
    files = [str((source.path.parent / file).resolve()) for file in config.plugins]
    return CollectionDocument(config.model_copy(update={"plugins": files}), source)


def choose(document: CollectionDocument, plugins: Plugins) -> ChosenCollection:
    """Find and check every part. Raises one UserError that lists every fault with its file and line."""
    config = document.config
    faults: list[Fault] = []
    pick = Picker(plugins, faults)
    model = pick("model", "model", config.model) if config.model else None
    data = pick("data", "dataset", config.data)
    judge = pick("judge", "judge", config.judge)
    facts = pick("facts", "judge", config.facts) if config.facts else None
    process = process_of(plugins, config.model) if config.model else None
    sampling = complete_sampling(process, "sampling", config.sampling, faults)
    if not faults:
        faults += [*_misfits(model, data), *_unable(judge, facts)]
    if faults:
        raise document.source.refusal(faults)
    return ChosenCollection(document, plugins, model, data, judge, facts, process, sampling)


def resolved(chosen: Chosen | ChosenCollection) -> dict[str, Any]:
    """The whole document of a run or a collection as plain data, every default visible."""
    if isinstance(chosen, Chosen):
        return compose.resolved(chosen)
    plain = chosen.config.model_dump(mode="json")
    for choice in (chosen.model, chosen.data, chosen.judge, chosen.facts):
        if choice is not None:
            plain[choice.key].update(choice.options)
    return {**plain, "sampling": chosen.sampling}


def _misfits(model: Choice | None, data: Choice) -> list[Fault]:
    """What does not fit between a model and data."""
    columns = data.offer.spec.columns
    if model is not None and model.offer.spec.process != "tokens":
        return [("model", f"'{model.offer.spec.name}' does not answer in words, which is what judges read")]
    if model is None and not set(columns) & set(ANSWERS):
        has, name = ", ".join(sorted(columns)), data.offer.spec.name
        return [("data", f"there is no `model` to answer, and '{name}' holds no answers: it has {has}")]
    return []


def _unable(judge: Choice, facts: Choice | None) -> list[Fault]:
    """What the chosen judges do not offer."""
    wanted = [(judge, "verdicts"), (facts or judge, "facts")]
    lacking = [(choice, what) for choice, what in wanted if what not in choice.offer.spec.offers]
    remedy = {"verdicts": "name another judge", "facts": "name a judge that does under `facts`"}
    return [(c.key, f"'{c.offer.spec.name}' gives no {what}: {remedy[what]}") for c, what in lacking]
