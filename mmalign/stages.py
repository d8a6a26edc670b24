"""Documents with `stages:`: a list of runs, one after the other, and `rounds:` that repeat the list.

    name: online-dpo
    rounds: 3
    model: {type: diffusers, path: base, lora: "${previous.model}"}    # every stage has the keys at the top
    stages:
      - name: dpo                                                      # and its own, laid over them
        trainer: {steps: 100}

A mapping of a stage is laid over the one at the top key by key, unless it names another `type`; everything else replaces it.
Texts may name what was made before:

    ${stages.NAME.model}   the result of an earlier stage of this round; ${stages.NAME.pairs} the pairs that it collected
    ${stages.NAME.segments}  the feedback of an earlier stage that has a `judge` (`mmalign.collection`) and trains nothing
    ${previous.model}      the result of the round before; null in the first round, or what stands behind a bar:
    ${previous.model|base}; ${previous.previous.model} that of two rounds before
    ${round}               the number of the round, from 1

The run folder of a stage is `runs/<name>/<round>-<stage>/`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmalign import collection
from mmalign.collected import Collection, is_collection
from mmalign.collection import ChosenCollection
from mmalign.compose import Chosen, choose
from mmalign.config import checked
from mmalign.document import Source, read_source
from mmalign.errors import UserError, nearest
from mmalign.faults import Fault, shown, validated
from mmalign.plugins import Plugins
from mmalign.staged import WHOLE, Staged

_REFERENCE = re.compile(r"\$\{([^}|]*)(?:\|([^}]*))?\}")
OUTPUTS = {"model": "model", "pairs": "pairs/pairs.jsonl", "segments": "segments.jsonl"}
"""What a stage makes, and where it lies in its run folder."""


@dataclass(frozen=True)
class StageSource:
    """One stage of one round as a document of its own. needs: the stages whose outputs it names."""

    name: str
    source: Source
    needs: Sequence[str]


@dataclass(frozen=True)
class Stage:
    """The same, checked, with its parts chosen."""

    name: str
    chosen: Chosen | ChosenCollection
    needs: Sequence[str]


@dataclass(frozen=True)
class StagedDocument:
    """A document with stages. faults: a line each, of everything that was wrong with what is not a stage's own."""

    staged: Staged
    source: Source
    stages: Sequence[StageSource]
    faults: Sequence[str]

    @property
    def folder(self) -> Path:
        """`runs/<name>`, which holds the folders of the stages."""
        return Path(self.staged.folder) / self.staged.name


def has_stages(path: Path) -> bool:
    """Whether a config is one with `stages:`."""
    return "stages" in read_source(path).data


def load(path: Path, overrides: Sequence[str] = ()) -> StagedDocument:
    """Read a document with stages and `key=value` overrides. Raises UserError when its stages cannot be told apart."""
    source = read_source(path, overrides)
    staged, faults = validated(Staged, source.data)
    if staged is None or source.unusable:
        raise source.refusal([*faults, *source.repeated])
    faults += [*source.repeated, *_misplaced(source, staged)]
    expanded = [
        _expanded(source, staged, round_, i) for round_ in range(1, staged.rounds + 1) for i in _indices(staged)
    ]
    stages = [stage for stage, _ in expanded]
    lines = str(source.refusal(faults)).splitlines() if faults else []
    for stage, wrong in expanded:
        lines += str(stage.source.refusal(wrong)).splitlines() if wrong else []
    return StagedDocument(staged, source, stages, list(dict.fromkeys(lines)))


def choose_all(document: StagedDocument, plugins: Plugins) -> list[Stage]:
    """Find and check the parts of every stage. Raises one UserError with every fault of all of them."""
    lines, stages = list(document.faults), []
    for stage in document.stages:
        try:
            stages.append(Stage(stage.name, _chosen(stage.source, plugins), stage.needs))
        except UserError as error:
            lines += str(error).splitlines()
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
    return stages


def _chosen(source: Source, plugins: Plugins) -> Chosen | ChosenCollection:
    if is_collection(source.data):
        return collection.choose(collection.checked(source), plugins)
    return choose(checked(source, tolerant=True), plugins)


def _indices(staged: Staged) -> range:
    return range(len(staged.stages))


def _misplaced(source: Source, staged: Staged) -> Iterator[Fault]:
    names = [stage.name for stage in staged.stages]
    for i, name in enumerate(names):
        if name in names[:i]:
            yield f"stages.{i}.name", f"another stage is called '{name}', too"
        for key in WHOLE:
            if key in source.data["stages"][i]:
                yield f"stages.{i}.{key}", "belongs to the whole document: move it to the top"


def _expanded(source: Source, staged: Staged, round_: int, index: int) -> tuple[StageSource, list[Fault]]:
    """A stage of a round, with the common keys below its own and its references filled in."""
    top = {key: value for key, value in source.data.items() if key not in WHOLE}
    own = {key: value for key, value in source.data["stages"][index].items() if key not in WHOLE}
    if is_collection(own):
        top = {key: value for key, value in top.items() if key in Collection.model_fields}
    filler = _Filler(staged, source.data, round_, index)
    data = {key: filler(value, key) for key, value in _laid_over(top, own).items()}
    name = f"{round_}-{staged.stages[index].name}"
    folder = str(Path(staged.folder) / staged.name)
    prefix = f"stages.{index}."
    places = {key.removeprefix(prefix): place for key, place in source.places.items() if key.startswith(prefix)}
    placed = replace(
        source,
        data={**data, "name": name, "folder": folder, "plugins": staged.plugins},
        places={**source.places, **places},
        repeated=[],
        unusable=[],
    )
    return StageSource(name, placed, list(dict.fromkeys(filler.needs))), filler.faults


def _laid_over(below: Any, above: Any) -> Any:
    """Mappings key by key, unless they are of another `type`; everything else is replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if "type" in above and above["type"] != below.get("type"):
        return above
    keys = dict.fromkeys([*below, *above])
    return {
        k: _laid_over(below[k], above[k]) if k in below and k in above else above.get(k, below.get(k)) for k in keys
    }


class _Filler:
    """Fills in references. needs: the stages that were named. faults: what is wrong with references."""

    def __init__(self, staged: Staged, data: Mapping[str, Any], round_: int, index: int):
        self.folder = Path(staged.folder) / staged.name
        self.names = [stage.name for stage in staged.stages]
        self.collects = ["collect" in {**data, **stage} for stage in data["stages"]]
        self.judges = [is_collection(stage) for stage in data["stages"]]
        self.round = round_
        self.index = index
        self.needs: list[str] = []
        self.faults: list[Fault] = []

    def __call__(self, value: Any, key: str) -> Any:
        """The value with every reference below it filled in."""
        if isinstance(value, Mapping):
            return {name: self(inner, f"{key}.{name}") for name, inner in value.items()}
        if isinstance(value, list):
            return [self(inner, f"{key}.{i}") for i, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            whole = _REFERENCE.fullmatch(value)
            return self._meant(whole) if whole else _REFERENCE.sub(lambda match: str(self._meant(match)), value)
        except UserError as error:
            self.faults.append((key, f"{shown(value)}: {error}"))
            return "unknown"

    def _meant(self, match: re.Match[str]) -> Any:
        reference, otherwise = match.groups()
        steps = reference.strip().split(".")
        if steps == ["round"]:
            return self.round
        if set(steps[:-1]) == {"previous"} and steps[-1] == "model":
            back = self.round - (len(steps) - 1)
            return self._output(back, len(self.names) - 1, "model") if back > 0 else otherwise
        if len(steps) == 3 and steps[0] == "stages":
            return self._earlier(steps[1], steps[2])
        raise UserError("a reference is ${stages.NAME.model}, .pairs or .segments, ${previous.model} or ${round}")

    def _earlier(self, name: str, output: str) -> str:
        """An output of an earlier stage of this round."""
        if name not in self.names[: self.index]:
            if name in self.names:
                raise UserError(f"stage '{name}' does not come before this one")
            raise UserError(f"no stage is called '{name}'{nearest(name, self.names)}")
        if output not in OUTPUTS:
            raise UserError(f"a stage makes {', '.join(OUTPUTS)}, no '{output}'")
        index = self.names.index(name)
        if output == "segments" and not self.judges[index]:
            raise UserError(f"stage '{name}' has no `judge`, so it makes no segments")
        if output == "pairs" and not self.collects[index]:
            raise UserError(f"stage '{name}' has no `collect`, so it makes no pairs")
        return self._output(self.round, index, output)

    def _output(self, round_: int, index: int, output: str) -> str:
        name = f"{round_}-{self.names[index]}"
        if output != "segments" and self.judges[index]:
            raise UserError(
                f"stage '{self.names[index]}' collects feedback, so it makes no {output}: it makes segments"
            )
        self.needs.append(name)
        return str(self.folder / name / OUTPUTS[output])
