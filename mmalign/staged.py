"""What a document with `stages:` may hold beside the keys of its stages, and the schema of all documents, for editors."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from mmalign.collected import Collection
from mmalign.config import Config, Count, FolderName, Section

WHOLE = ("stages", "rounds", "folder", "plugins")
"""Keys that belong to the whole document."""

_REFERENCE = {
    "type": "string",
    "pattern": r"\$\{.+\}",
    "description": "What was made before, for example ${stages.NAME.model}.",
}
"""What may stand in the place of any number or text of a stage."""


class NamedStage(Section):
    """One stage: its name, and the keys of a run or a collection, laid over those at the top of the document."""

    model_config = ConfigDict(extra="allow")

    name: FolderName
    """What references and folders call it."""


class Staged(Section):
    """Runs and collections one after the other. Their keys at the top hold for every stage."""

    model_config = ConfigDict(extra="allow")

    name: FolderName
    """Name of the folder that holds the stages' folders."""
    rounds: Count = 1
    """How often the stages are repeated."""
    stages: list[NamedStage] = Field(min_length=1)
    """Runs and collections in their order."""
    folder: str = "runs"
    """Where run folders are made."""
    plugins: list[str] = Field(default=[])
    """Python files with further plugins, relative to the config."""


def schema() -> dict[str, Any]:
    """The JSON schema of documents: a run, a collection, or stages, each of them one of the two."""
    alone = {"Config": Config.model_json_schema(), "Collection": Collection.model_json_schema()}
    staged = Staged.model_json_schema()
    named = staged.pop("$defs")["NamedStage"]
    parts = {name: part for one in alone.values() for name, part in one.pop("$defs").items()}
    loose = {f"Staged{name}": _loosened(part) for name, part in parts.items()}
    keys = _either(*(_loosened(one)["properties"] for one in alone.values()))
    own = {key: one for key, one in keys.items() if key not in WHOLE}
    stage = {**named, "properties": {**own, **named["properties"]}, "additionalProperties": False}
    staged |= {"properties": {**own, **staged["properties"]}, "additionalProperties": False}
    definitions = {**parts, **loose, **alone, "Staged": staged, "NamedStage": stage}
    documents = [_reference(name) for name in ("Config", "Collection", "Staged")]
    return {"title": "mmalign", "anyOf": documents, "$defs": definitions}


def _either(run: Mapping[str, Any], collection: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of both; one that means another thing in each may hold either."""
    shared = {key: {"anyOf": [one, collection[key]]} for key, one in run.items() if one != collection.get(key, one)}
    return {**collection, **run, **shared}


def _loosened(schema: Any) -> Any:
    """The schema of a section whose keys may stand elsewhere and whose values may be references."""
    if isinstance(schema, list):
        return [_loosened(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _loosened(value) for key, value in schema.items() if key not in ("required", "default")}
    if "$ref" in found:
        return {**found, **_reference(f"Staged{schema['$ref'].rpartition('/')[2]}")}
    scalar = schema.get("type") in ("integer", "number", "boolean") or ("enum" in schema and "type" in schema)
    return {"anyOf": [found, _REFERENCE]} if scalar else found


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}
