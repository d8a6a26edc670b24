"""Collect feedback into a run folder; what is judged already is never judged again, but where the judge told nothing it is asked
again when the collection is resumed.

config.yaml  environment.json    as those of a run
judged.jsonl                     a line an answer, added batch by batch, and what each batch has cost
media/                           the prompts' pictures that are no files
segments.jsonl                   the result, for `text-segments`: the answers that have a label, in the order of the data
collection.json                  how many answers, segments, verdicts and labels there are, and what they have cost
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign import environment
from mmalign.builtin.files import read_rows, to_json, write, write_rows
from mmalign.collection import ChosenCollection, resolved
from mmalign.console import track
from mmalign.data.check import Readable
from mmalign.data.media import stored
from mmalign.document import dump, read
from mmalign.engine import device
from mmalign.errors import BadRow, RunFailure, UserError
from mmalign.judging import findings, labelled, tally, unanswered
from mmalign.parts import FactJudge, Source
from mmalign.processes.tokens import text_of
from mmalign.records import Prompt
from mmalign.run import differences

JUDGED, RESULT, SUMMARY = "judged.jsonl", "segments.jsonl", "collection.json"

Asked = tuple[int, int]
"""An answer: the row of its prompt, and which of the row's answers it is."""


@dataclass(frozen=True)
class Collector:
    """A collection, built. policy: what answers, or None where the data do."""

    chosen: ChosenCollection
    rows: Source
    policy: Any
    finder: FactJudge
    verifier: FactJudge

    @property
    def per_prompt(self) -> int:
        """How many answers each row has."""
        return len(self.chosen.columns) or self.chosen.config.collect.samples_per_prompt

    def judged(self, batch: Sequence[Asked], texts: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Rows of what was found of some answers. texts: those, where they were judged before."""
        asked = [self.rows[row]["prompt"] for row, _ in batch]
        texts = texts or self._answers(batch, asked)
        found = findings(asked, texts, self._split, self.finder, self.verifier)
        return [
            {
                "row": row,
                "answer": self.chosen.columns[number] if self.chosen.columns else number,
                **_shown(prompt, self.chosen.folder),
                "completion": text,
                "segments": labelled(pieces),
                "facts": [piece.plain() for piece in pieces],
            }
            for (row, number), prompt, text, pieces in zip(batch, asked, texts, found, strict=True)
        ]

    def spent(self) -> dict[str, float]:
        """What the judges have cost since they were built."""
        judges = {id(judge): judge for judge in (self.finder, self.verifier)}.values()
        return _sum(judge.spent() for judge in judges if hasattr(judge, "spent"))

    def _answers(self, batch: Sequence[Asked], asked: Sequence[Prompt]) -> list[str]:
        if self.policy is None:
            return [text_of(self.rows[row][self.chosen.columns[number]]) for row, number in batch]
        first = self.chosen.config.collect.seed * len(self.rows) * self.per_prompt
        seeds = [first + row * self.per_prompt + number for row, number in batch]
        return list(self.policy.sample(asked, seeds).responses)

    def _split(self, text: str) -> Sequence[tuple[int, int]]:
        spans: Sequence[tuple[int, int]] | None = self.chosen.plugins.hook.mmalign_split(text=text)
        if spans is None:
            raise UserError("no installed plugin cuts answers into segments: pip install mmalign-lvlm")
        return spans


def collect(chosen: ChosenCollection, resume: bool = False) -> Path:
    """Do the whole collection, or what is left of it, and return its folder. Resumed, it asks again where nothing was told.

    Raises UserError for a folder that already holds one (unless `resume`), or one whose config differs (when resuming).
    """
    folder = chosen.folder
    _check(chosen, resume)
    told = _told(chosen)
    if (folder / RESULT).is_file() and not any(map(unanswered, told.values())):
        return folder
    collector = built(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    dump(resolved(chosen), folder / "config.yaml")
    environment.write_to(folder, chosen.plugins, device(), 1, chosen.config.collect.seed)
    skipped = _judge_what_is_left(collector, told, folder / JUDGED)
    told = _told(chosen)
    rows = [told[asked] for asked in sorted(told)]
    spent = _sum(line["spent"] for line in read_rows(folder / JUDGED) if "spent" in line)
    write(folder / SUMMARY, to_json({**tally(rows), "skipped": skipped, "spent": spent}, indent=2) + "\n")
    kept = [row for row in rows if row["segments"]]
    if not kept:
        raise RunFailure(f"no segment of any answer got a label, so nothing can be learned: see {folder / SUMMARY}")
    write_rows(folder / RESULT, kept)
    return folder


def summary(folder: Path) -> dict[str, Any]:
    """What a finished collection's `collection.json` says."""
    found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found


def built(chosen: ChosenCollection) -> Collector:
    """Make the parts, data first and models last."""
    rows: Source = chosen.data.build()
    if len(rows) == 0:
        raise UserError(
            f"{chosen.document.source.place('data').text}: data: {chosen.data.offer.spec.name} holds no rows"
        )
    if chosen.config.data.on_bad_row == "skip":
        rows = Readable(rows, lambda path: chosen.plugins.hook.mmalign_read_media(path=path))
    verifier = _placed(chosen.judge.build())
    finder = _placed(chosen.facts.build()) if chosen.facts else verifier
    policy = None
    if chosen.model is not None and chosen.process is not None:
        policy = chosen.process(_placed(chosen.model.build()), chosen.process.Sampling(**chosen.sampling))
    return Collector(chosen, rows, policy, finder, verifier)


def _check(chosen: ChosenCollection, resume: bool) -> None:
    """Raise UserError unless the folder is free or holds this collection."""
    written = chosen.folder / "config.yaml"
    if not resume and written.exists():
        raise UserError(f"{chosen.folder} already holds a run: go on with --resume, or choose another name=...")
    if resume and not written.is_file():
        raise UserError(f"nothing to resume: {chosen.folder} holds no collection")
    if resume and (changed := differences(read(written), resolved(chosen))):
        raise UserError(f"{chosen.folder} was started with another config; what differs: {', '.join(changed)}")


def _told(chosen: ChosenCollection) -> dict[Asked, dict[str, Any]]:
    """By answer its line in the journal: of several the one that leaves least unanswered, the latest of those."""
    found: dict[Asked, dict[str, Any]] = {}
    for line in read_rows(chosen.folder / JUDGED):
        if "row" in line:
            asked = line["row"], chosen.columns.index(line["answer"]) if chosen.columns else line["answer"]
            found[asked] = min(line, found.get(asked, line), key=unanswered)
    return found


def _judge_what_is_left(collector: Collector, told: Mapping[Asked, dict[str, Any]], journal: Path) -> int:
    """Add what was not told yet to the journal, batch by batch. Returns how many rows were skipped."""
    answers, skipped = _readable(collector)
    new = [one for one in answers if one not in told]
    again = [one for one in answers if one in told and unanswered(told[one])]
    size, before = collector.chosen.config.collect.batch_size, collector.spent()
    write_rows(journal, read_rows(journal))  # without what a killed batch may have torn
    batches = [some[start : start + size] for some in (new, again) for start in range(0, len(some), size)]
    for batch in track(batches, "batches of answers judged"):
        rows = collector.judged(batch, [told[one]["completion"] for one in batch if one in told])
        now = collector.spent()
        _append(journal, [*rows, {"spent": {name: now[name] - before.get(name, 0) for name in now}}])
        before = now
    return skipped


def _readable(collector: Collector) -> tuple[list[Asked], int]:
    """All answers, and how many rows cannot be read and are left out."""
    skip = collector.chosen.config.data.on_bad_row == "skip"
    bad = set(_bad(collector.rows)) if skip else set()
    everything = [(row, n) for row in range(len(collector.rows)) for n in range(collector.per_prompt)]
    return [one for one in everything if one[0] not in bad], len(bad)


def _bad(rows: Source) -> Iterator[int]:
    for index in range(len(rows)):
        try:
            rows[index]
        except BadRow:
            yield index


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add lines that a crash leaves whole or, the last of them, torn."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(to_json(row) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def _sum(everything: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Numbers added by name."""
    total: dict[str, float] = {}
    for one in everything:
        total |= {name: total.get(name, 0) + value for name, value in one.items()}
    return total


def _shown(prompt: Prompt, folder: Path) -> dict[str, Any]:
    """A prompt in the columns of `text-segments`."""
    turns = [{"role": turn.role, "content": turn.text} for turn in prompt.history]
    asked = [*turns, {"role": "user", "content": prompt.text}] if turns else prompt.text
    return {"prompt": asked, "images": [stored(image, folder) for image in prompt.images]}


def _placed(part: Any) -> Any:
    return part.to(device()) if hasattr(part, "to") else part
