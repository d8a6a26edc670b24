"""What is wrong with a piece of a config, in plain sentences: pydantic finds it, this file words it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from inspect import isclass
from math import isfinite
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from mmalign.errors import nearest

Fault = tuple[str, str]
"""A dotted key and what is wrong with it."""

Model = TypeVar("Model", bound=BaseModel)

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
    "none_required": "null",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} characters long",
    "is_instance_of": "a {class}, which a config cannot hold",
}
"""pydantic's error type (without its ending) -> what the value must be."""

_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_SENTENCE = {"value_error", "assertion_error"}


def validated(kind: type[Model], data: Any) -> tuple[Model | None, list[Fault]]:
    """`data` (plain, as YAML gives it) as a `kind`, or None and every fault.

    Types are strict in the sense of a file: a whole number passes for a number, a list for a tuple and text for a path,
    but "3" is no number and true is no 1.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        return None, _faults(error, kind, data)


def shown(value: Any) -> str:
    """A value as a person would write it in YAML, shortened."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if len(str(value)) > 40 else json.dumps(value)
    if isinstance(value, float) and not isfinite(value):
        return f"{value}".replace("inf", ".inf").replace("nan", ".nan")
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _faults(error: ValidationError, kind: type[BaseModel], data: Any) -> list[Fault]:
    """One fault a key: what the members of a union say about the same key becomes one sentence."""
    by_key: dict[str, list[Any]] = {}
    steps: dict[str, list[str | int]] = {}
    for entry in error.errors(include_url=False):
        path = _path(entry, data)
        key = ".".join(map(str, path))
        by_key.setdefault(key, []).append(entry)
        steps[key] = path
    return [(key, _sentence(entries, known_keys(kind, steps[key][:-1]))) for key, entries in by_key.items()]


def _path(entry: Any, data: Any) -> list[str | int]:
    """Where the error stands in `data`; pydantic also names the member of a union it tried, which is left out."""
    path: list[str | int] = []
    location = entry["loc"]
    for i, step in enumerate(location):
        if _holds(data, step):
            data = data[step]
        elif entry["type"] != "missing" or i < len(location) - 1:
            continue
        path.append(step)
    return path


def _holds(data: Any, step: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(step, int) and step < len(data)
    return isinstance(data, Mapping) and step in data


def _sentence(entries: Sequence[Any], known: Sequence[str]) -> str:
    entry = entries[0]
    if entry["type"] in _UNKNOWN:
        return "unknown key" + (nearest(str(entry["loc"][-1]), known) or f"; known: {', '.join(known) or 'none'}")
    if entry["type"] == "missing":
        return "missing, and it has no default"
    if entry["type"] in _SENTENCE:
        return str(entry["ctx"]["error"])
    given = entry["input"]
    wanted = list(dict.fromkeys(_wanted(other) for other in entries))
    choices = re.findall(r"'([^']*)'", " ".join(wanted))
    hint = nearest(given, choices) if isinstance(given, str) else ""
    if wanted == ["text"] and isinstance(given, (int, float)):
        hint = "; put it in quotes"
    return f"must be {' or '.join(wanted)}, got {shown(given)}{hint}"


def _wanted(entry: Any) -> str:
    name = entry["type"]
    short = re.sub(r"_(type|parsing|from_float|exact_type)$", "", name)
    template = _WANTED.get(name) or _WANTED.get(short)
    limits = {
        key: int(at) if isinstance(at, float) and at.is_integer() else at for key, at in entry.get("ctx", {}).items()
    }
    return template.format(**limits) if template else f"right ({entry['msg']})"


def known_keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that a mapping at `path` inside a `kind` may have."""
    for step in path:
        if isinstance(step, str):  # an index leaves `kind` alone: `_fields` looks through lists
            kind = _fields(kind).get(step)
    return list(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    """Key -> annotation, for models and dataclasses and whatever holds them: unions, lists, mappings."""
    if isclass(kind) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    if is_dataclass(kind):
        return get_type_hints(kind)
    return {name: inner for member in get_args(kind) for name, inner in _fields(member).items()}
