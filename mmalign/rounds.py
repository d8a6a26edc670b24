"""Run the stages of a document one after the other; what is finished is never made again.

What a stage makes depends on its resolved config and on the outputs that it names. A fingerprint of both stands in
`stage.json` of its folder. When it no longer fits, the stage is made anew, and with it those that name its outputs; what was
there before is kept beside it.
"""

import gc
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign import collecting, run
from mmalign.collection import resolved
from mmalign.compose import Chosen
from mmalign.console import say
from mmalign.document import dump, read
from mmalign.engine import agreed
from mmalign.errors import UserError
from mmalign.stages import Stage, StagedDocument

_NO_MATTER = ("checkpoint_every", "keep_checkpoints")
"""Keys of the trainer that change nothing of what a stage makes."""


@dataclass(frozen=True)
class Status:
    """How far a stage is. what: "done", "started", "changed" or "to do". why: what changed, in words."""

    what: str
    why: str = ""


def train(document: StagedDocument, stages: Sequence[Stage], resume: bool = False) -> Path:
    """Run what is not done yet and return the folder of all stages.

    Raises UserError when there are runs in it already, unless `resume`.
    """
    prints = fingerprints(stages)
    found = agreed(lambda: statuses(stages))
    if not resume and any(status.what != "to do" for status in found):
        raise UserError(f"{document.folder} already holds runs: go on with --resume, or choose another name=...")
    agreed(lambda: _note_document(document))
    for stage, status in zip(stages, found, strict=True):
        if agreed(lambda stage=stage, status=status: _begin(stage, status, prints[stage.name])):  # type: ignore[misc]
            folder = _folder(stage)
            _do(stage, resume=status.what == "started" and (folder / "config.yaml").is_file())
            agreed(lambda folder=folder, stage=stage: _note(folder, prints[stage.name], True))  # type: ignore[misc]
            gc.collect()  # the model of this stage, before that of the next is loaded
    return document.folder


def statuses(stages: Sequence[Stage]) -> list[Status]:
    """How far each stage is, told from its folder alone."""
    prints = fingerprints(stages)
    found: dict[str, Status] = {}
    for stage in stages:
        redone = [name for name in stage.needs if found[name].what == "changed"]
        found[stage.name] = _status(stage, prints[stage.name], redone)
    return list(found.values())


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """By stage, a hash of its resolved config and of the fingerprints of the stages whose outputs it names."""
    prints: dict[str, str] = {}
    for stage in stages:
        parts = [_mattering(resolved(stage.chosen)), [prints[name] for name in stage.needs]]
        prints[stage.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return prints


def _do(stage: Stage, resume: bool) -> None:
    """Train, or collect, which one process does for all."""
    chosen = stage.chosen
    if isinstance(chosen, Chosen):
        run.train(chosen, resume=resume)
    else:
        agreed(lambda: collecting.collect(chosen, resume=resume))


def _folder(stage: Stage) -> Path:
    return Path(stage.chosen.config.folder) / stage.chosen.config.name


def _result(stage: Stage) -> Path:
    """What is there once a stage is finished."""
    return _folder(stage) / ("model" if isinstance(stage.chosen, Chosen) else collecting.RESULT)


def _status(stage: Stage, fingerprint: str, redone: Sequence[str]) -> Status:
    folder = _folder(stage)
    if not folder.is_dir():
        return Status("to do")
    noted = _noted(folder)
    if noted.get("fingerprint") == fingerprint:
        finished = noted.get("finished") and _result(stage).exists()
        return Status("done" if finished else "started")
    return Status("changed", "; ".join(_reasons(stage, folder, redone)))


def _reasons(stage: Stage, folder: Path, redone: Sequence[str]) -> Iterator[str]:
    if (folder / "config.yaml").is_file():
        yield from run.differences(_mattering(read(folder / "config.yaml")), _mattering(resolved(stage.chosen)))
    yield from (f"after {name}" for name in redone)


def _begin(stage: Stage, status: Status, fingerprint: str) -> bool:
    """Make the folder ready and say what happens. Returns whether the stage has to run."""
    folder = _folder(stage)
    if status.what == "done":
        say(f"{stage.name}: done before")
        return False
    if status.what == "changed":
        aside = next(p for i in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.old-{i}")).exists())
        os.replace(folder, aside)
        say(f"{stage.name}: made anew, for it changed ({status.why or 'what it is made of'}); before: {aside}")
    else:
        say(f"{stage.name}: {'goes on' if status.what == 'started' else 'begins'}")
    _note(folder, fingerprint, False)
    return True


def _note(folder: Path, fingerprint: str, finished: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".stage.json.partial"
    partial.write_text(json.dumps({"fingerprint": fingerprint, "finished": finished}) + "\n", encoding="utf-8")
    os.replace(partial, folder / "stage.json")


def _noted(folder: Path) -> Mapping[str, Any]:
    path = folder / "stage.json"
    noted: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return noted


def _note_document(document: StagedDocument) -> None:
    """The document, so that `mmalign train FOLDER --resume` goes on."""
    document.folder.mkdir(parents=True, exist_ok=True)
    files = [str((document.source.path.parent / file).resolve()) for file in document.staged.plugins]
    dump({**document.source.data, "plugins": files}, document.folder / "config.yaml")


def _mattering(plain: Mapping[str, Any]) -> dict[str, Any]:
    trainer = {key: value for key, value in plain.get("trainer", {}).items() if key not in _NO_MATTER}
    return {**plain, "trainer": trainer}
