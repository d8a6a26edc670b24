"""The layouts of known data sets: which columns hold words, pictures and labels, and how a row becomes mmalign's own.

Rows of words keep TRL's columns (prompt, chosen, rejected, images); rows of media name two pictures or videos.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmalign.data.cells import tied
from mmalign.errors import UserError, nearest
from mmalign.records import EVERY

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """How a layout is read.

    words, media: columns that hold texts, and pictures or videos (one, or a list of them). labels: columns with the values
    that they may have. sides: the two things that a row compares, or None where rows are no pairs. winner: above 0 when the
    first side is better, below 0 when the second is, 0 for a tie; it reads columns of `labels` and of `kept` alone.
    votes: by dimension which of the sides is better, in the words of `mmalign.data.feedback`, None where nobody says; without it
    the winner is better in all.
    prompt: the column that is asked. kept: columns that go along when they are there. unfold: makes the columns of a row.
    texts: the sides are words, and `media` is what the prompt shows.
    read: what else a row says, of a row in a folder; only checks ask it. Raises UserError that says what is wrong.
    """

    words: Sequence[str] = ("prompt",)
    media: Sequence[str] = ()
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sides: Callable[[Record], tuple[Any, Any]] | None = None
    winner: Callable[[Record], float] = lambda row: 1
    votes: Callable[[Record], Mapping[str, Any]] | None = None
    prompt: str = "prompt"
    kept: Sequence[str] = ()
    unfold: Callable[[Record], Record] = dict
    texts: bool = False
    read: Callable[[Record, Path], Record] | None = None

    @property
    def columns(self) -> list[str]:
        """What a row must hold."""
        return list(dict.fromkeys([*self.words, *self.media, *self.labels]))

    def said(self, row: Record) -> Mapping[str, Any]:
        """By dimension which of the sides, as they are written down, is better. Reads what `winner` reads."""
        winner = self.winner(row)
        return self.votes(row) if self.votes else {EVERY: (winner > 0) - (winner < 0)}

    def pair(self, row: Record) -> dict[str, Any]:
        """An unfolded row as prompt, chosen and rejected. Ask `winner` first whether there is a preference."""
        assert self.sides is not None
        first, second = self.sides(row)
        chosen, rejected = (first, second) if self.winner(row) > 0 else (second, first)
        shown = {"images": [row[column] for column in self.media]} if self.texts and self.media else {}
        kept = {column: row[column] for column in self.kept if row.get(column) is not None}
        return {"prompt": row.get(self.prompt), "chosen": chosen, "rejected": rejected, **shown, **kept}


def preset(name: str) -> Preset:
    """The preset of that name. Raises UserError when there is none."""
    return named(name, PRESETS)


def named(name: str, presets: Mapping[str, Preset]) -> Preset:
    """The one of that name among `presets`. Raises UserError when there is none."""
    if name not in presets:
        raise UserError(f"unknown preset '{name}'{nearest(name, presets) or '; known: ' + ', '.join(presets)}")
    return presets[name]


def _own_sides(row: Record) -> tuple[Any, Any]:
    return row["chosen"], row["rejected"]


def _own_winner(row: Record) -> float:
    """Where a row tells how much better the chosen one is, that must not be nothing."""
    return float(not tied(row))


def _unfolded(row: Record) -> Record:
    """RLHF-V keeps question, chosen and rejected as JSON in `text`; its .jsonl names the picture in `image_path`."""
    text = row.get("text")
    inner = json.loads(text) if isinstance(text, str) else text
    shown = {"image": row["image_path"]} if row.get("image") is None and "image_path" in row else {}
    rest = {name: cell for name, cell in row.items() if name not in ("text", "image_path")}
    return {**rest, **shown, **(inner if isinstance(inner, Mapping) else {})}


_VOTES = {"A": 1, "B": -1, "same": 0, "tie": 0, "invalid": 0, None: 0}
_DIMENSIONS = ("VQ", "MQ", "TA")


def _named_dimensions(row: Record) -> Record:
    """Per dimension, which of the sides as they are written down is better."""
    said = _votes(row)
    votes = {name: _VOTES.get(vote, 0) for name, vote in said.items()}
    sign = 1 if sum(votes.values()) > 0 else -1
    words = {1: "chosen", -1: "rejected", 0: "tie"}
    told = {name: None if said[name] is None else words[sign * vote] for name, vote in votes.items()}
    return {**row, "preferences": told}


def _votes(row: Record) -> dict[str, Any]:
    """By dimension A, B or a tie; None where nobody could say."""
    return {name: None if row.get(name) == "invalid" else row.get(name) for name in _DIMENSIONS}


PRESETS = {
    "mmalign": Preset(("prompt",), ("chosen", "rejected"), {}, _own_sides, _own_winner, kept=("scores", "strength")),
    "trl": Preset(
        ("chosen", "rejected"), (), {}, _own_sides, kept=("images", "image", "videos", "scores", "strength"), texts=True
    ),
    "prompts": Preset(("prompt",)),
    "samples": Preset(("prompt",), ("sample",)),
    "labelled": Preset(("prompt",), ("sample",), {"label": (0, 1, -1)}),
    # Pick-a-Pic v1 and v2: label_0 is 1 when the first picture wins, 0 when the second does, 0.5 for a tie.
    "pick-a-pic": Preset(
        ("caption",),
        ("jpg_0", "jpg_1"),
        {"label_0": (0, 0.5, 1)},
        lambda row: (row["jpg_0"], row["jpg_1"]),
        lambda row: float(row["label_0"]) - 0.5,
        prompt="caption",
    ),
    # HPDv2, train.json: two files, and 1 at the place of the preferred one.
    "hpdv2": Preset(
        ("prompt",),
        ("file_path",),
        {"human_preference": ([0, 1], [1, 0])},
        lambda row: (row["file_path"][0], row["file_path"][1]),
        lambda row: row["human_preference"][0] - row["human_preference"][1],
    ),
    # RLHF-V and RLAIF-V: a picture, a question and two answers.
    "rlhf-v": Preset(
        ("question", "chosen", "rejected"),
        ("image",),
        sides=_own_sides,
        prompt="question",
        unfold=_unfolded,
        texts=True,
    ),
    # VideoAlign: A, B or same for visual quality, motion quality and text alignment, or invalid, or nothing. As pairs, the side
    # with more votes wins; the votes themselves are kept as `preferences`.
    "videoalign": Preset(
        ("prompt",),
        ("path_A", "path_B"),
        dict.fromkeys(_DIMENSIONS, tuple(_VOTES)),
        lambda row: (row["path_A"], row["path_B"]),
        lambda row: sum(_VOTES[row[name]] for name in _DIMENSIONS),
        _votes,
        kept=("preferences",),
        unfold=_named_dimensions,
    ),
}
