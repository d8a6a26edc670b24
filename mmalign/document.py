"""YAML 1.2 files as plain data that knows where each key stands, with overrides laid over it.

A key is written with dots, `trainer.steps` or `rewards.0.weight`. Its place is `file.yaml:12`, or
`override 'trainer.steps=5'`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from mmalign.errors import UserError, nearest
from mmalign.faults import Fault, shown

if TYPE_CHECKING:
    from mmalign.config import Config

_TAG = "tag:yaml.org,2002:"
_NOT_TEXT = {f"{_TAG}{name}" for name in ("int", "float", "bool", "null")}
_AFTER_ALL_LINES = 1_000_000_000


class Place(NamedTuple):
    """Where a key was given. order: sorts places as a person meets them, lines first, overrides after them."""

    order: int
    text: str


@dataclass
class Source:
    """What a file and its overrides say.

    data: plain. places: where each key was given. repeated: keys given twice. unusable: overrides that could not be
    laid over the file.
    """

    path: Path
    data: dict[str, Any]
    places: dict[str, Place]
    repeated: list[Fault]
    unusable: list[tuple[Place, str]] = field(default_factory=list)

    def place(self, key: str) -> Place:
        """Where `key` was given, or else what would hold it."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, Place(0, f"{self.path}:1"))

    def refusal(self, faults: Iterable[Fault]) -> UserError:
        """One error that lists faults and unusable overrides, a line each, in the order of their places."""
        placed = [*self.unusable, *((self.place(key), f"{key}: {message}") for key, message in faults)]
        return UserError("\n".join(f"{place.text}: {message}" for place, message in sorted(placed)))


@dataclass(frozen=True)
class Document:
    """A checked config and where it comes from.

    faults: what is wrong with it; empty unless it was loaded `tolerant`. `config` then goes without the faulty keys.
    """

    config: "Config"
    source: Source
    faults: Sequence[Fault] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    def where(self, key: str) -> str:
        """Where a dotted key was given: `file.yaml:12`, or the override that gave it."""
        return self.source.place(key).text

    def refusal(self, faults: Iterable[Fault]) -> UserError:
        """One error that lists faults, each with its place, in the order of their places."""
        return self.source.refusal(faults)


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read a config file and lay `key=value` overrides over it. Raises UserError when there is no mapping to read."""
    reader = _Reader(lambda line: Place(line, f"{path}:{line}"))
    data = reader.read(_text(path))
    if data is None:
        raise UserError(f"{path} is empty: a config holds at least name, model, data, objective and trainer")
    if not isinstance(data, dict):
        raise UserError(f"{path} must be a mapping of keys to values, this is {shown(data)}")
    source = Source(path, data, reader.places, reader.repeated)
    for number, override in enumerate(overrides):
        _override(source, override, Place(_AFTER_ALL_LINES + number, f"override '{override}'"))
    return source


def read(path: Path) -> Any:
    """A YAML file as plain data."""
    return _Reader(lambda line: Place(line, f"{path}:{line}")).read(_text(path))


def value(text: str) -> Any:
    """What the value of a `key=value` argument means: YAML, so `1e-4` is a number and `[a, b]` a list."""
    return _Reader(lambda line: Place(line, f"'{text}'")).read(text)


def text(plain: Mapping[str, Any]) -> str:
    """Plain data as YAML that reads back equal."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False
    stream = StringIO()
    yaml.dump(dict(plain), stream)
    return stream.getvalue()


def dump(plain: Mapping[str, Any], path: Path) -> None:
    """Write plain data as YAML, aside and then renamed, so that a killed run never leaves half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text(plain), encoding="utf-8")
    os.replace(partial, path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(f"no such file: {path}{nearest(path.name, siblings)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name the config file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


@dataclass
class _Reader:
    """Reads one YAML text. at: line -> place. Notes the `places` of all keys and those that are `repeated`."""

    at: Callable[[int], Place]
    places: dict[str, Place] = field(default_factory=dict)
    repeated: list[Fault] = field(default_factory=list)

    def read(self, text: str, key: str = "") -> Any:
        """The text's data; `key` is where it will stand. Raises UserError when it is no YAML."""
        yaml = YAML(typ="safe", pure=True)
        try:
            node = yaml.compose(text)
            return None if node is None else self._plain(node, key)
        except YAMLError as error:
            mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
            problem = (error.problem if isinstance(error, MarkedYAMLError) else None) or str(error)
            hint = "; tabs cannot indent, use spaces" if "'\\t'" in problem else ""
            place = self.at(mark.line + 1 if mark else 1)
            raise UserError(f"{place.text}: not valid YAML: {problem}{hint}") from None
        except RecursionError:
            raise UserError(f"{self.at(1).text}: not valid here: an alias holds itself") from None

    def _plain(self, node: Node, key: str) -> Any:
        if isinstance(node, SequenceNode):
            return [self._inner(f"{key}.{i}", item, item) for i, item in enumerate(node.value)]
        if not isinstance(node, MappingNode):
            return self._scalar(node)
        data: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(name_node.value)
            inner = f"{key}.{name}".lstrip(".")
            if name in data:
                self.repeated.append((inner, f"given twice, first at {self.places[inner].text}"))
            data[name] = self._inner(inner, name_node, value_node)
        return data

    def _inner(self, key: str, marked: Node, node: Node) -> Any:
        self.places[key] = self.at(marked.start_mark.line + 1)
        return self._plain(node, key)

    def _scalar(self, node: Node) -> Any:
        """Numbers, truth values and null; all else is text, dates too."""
        tag, place = str(node.tag), self.at(node.start_mark.line + 1).text
        if not tag.startswith(_TAG):
            raise UserError(f"{place}: not valid here: the tag {tag}")
        try:
            return YAML(typ="safe", pure=True).constructor.construct_object(node) if tag in _NOT_TEXT else node.value
        except ValueError:
            raise UserError(f"{place}: {shown(node.value)} is no {tag.removeprefix(_TAG)}") from None


def _override(source: Source, override: str, place: Place) -> None:
    """Lay one `key=value` over the source, or note what is wrong with it."""
    key, equals, written = override.partition("=")
    key = key.strip()
    reader = _Reader(lambda _: place)
    try:
        if not equals or not key:
            raise UserError(f"{place.text}: not of the form key=value, for example trainer.steps=50")
        data = reader.read(written, key)
        _assign(source.data, key.split("."), data, f"{place.text}: {key}")
    except UserError as error:
        source.unusable.append((place, str(error).removeprefix(f"{place.text}: ")))
        return
    source.repeated += reader.repeated
    # What the old value held is gone, and its places with it.
    kept = {other: where for other, where in source.places.items() if not other.startswith(f"{key}.")}
    parents = {key.rsplit(".", i)[0]: place for i in range(1, key.count(".") + 1)}
    source.places = {**parents, **kept, **reader.places, key: place}


def _assign(holder: Any, steps: Sequence[str], data: Any, name: str) -> None:
    """Put `data` at `steps` below `holder`, making the mappings on the way. name: starts the error's message."""
    step, *rest = steps
    index: Any = step
    if isinstance(holder, list):
        if not step.isdecimal() or int(step) >= len(holder):
            raise UserError(f"{name}: '{step}' is no place in a list of {len(holder)}, which counts from 0")
        index = int(step)
    if not rest:
        holder[index] = data
        return
    inner = holder[index] if isinstance(holder, list) else holder.get(index)
    if inner is None or isinstance(inner, str):
        inner = {} if inner is None else {"type": inner}  # a name alone is short for a part of that type
        holder[index] = inner
    if not isinstance(inner, (dict, list)):
        raise UserError(f"{name}: '{step}' is {shown(inner)}, which holds no keys")
    _assign(inner, rest, data, name)
