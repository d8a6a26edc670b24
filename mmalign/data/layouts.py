"""What a file can be checked as: the layouts of known data sets, and mmalign's own by the names of the sources that read them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mmalign.data.cells import rated, scored
from mmalign.data.check import label_of
from mmalign.data.feedback import check_sides, judgement, ratings, segments, sides
from mmalign.data.presets import PRESETS, Preset, Record, named
from mmalign.data.sources import medium
from mmalign.data.texts import text_pair, text_prompt, text_sample
from mmalign.errors import UserError

Read = Callable[[Record, Path], Record]


def layout(name: str) -> Preset:
    """The layout of that name. Raises UserError when there is none."""
    return named(name, LAYOUTS)


def _typed(row: Record) -> Record:
    """With numbers that a file without types holds as text."""
    return {name: label_of(cell) if name in _NUMBERS else cell for name, cell in row.items()}


def _scored(row: Record, folder: Path) -> Record:
    return scored(row, "score")


def _rated(row: Record, folder: Path) -> Record:
    return {"ratings": ratings(row)}


def _preferred(row: Record, folder: Path) -> Record:
    first, second = (medium(row[name], folder) for name in sides(row))
    judged = judgement(row)
    check_sides(first, second, judged)
    return {"first": first, "second": second, **judged}


def _text_pair(row: Record, folder: Path) -> Record:
    return text_pair(_TRL.pair(row), folder)


def _text_preferred(row: Record, folder: Path) -> Record:
    first, second = sides(row)
    read, judged = text_pair({**row, "chosen": row[first], "rejected": row[second]}, folder), judgement(row)
    check_sides(read["chosen"], read["rejected"], judged)
    return {"prompt": read["prompt"], **judged}


def _text_segments(row: Record, folder: Path) -> Record:
    read = text_sample(row, folder)
    return {**read, "segments": segments(row.get("segments"), read["sample"])}


def _compared(row: Record, folder: Path) -> Record:
    return rated(row)


def _of_both(row: Record, folder: Path) -> Record:
    """What goals are made of."""
    if row.get("scores") is None:
        raise UserError("no `scores`: a list of the chosen sample's and the rejected one's")
    return rated(row)


def _and(*readers: Read) -> Read:
    return lambda row, folder: {name: cell for read in readers for name, cell in read(row, folder).items()}


_NUMBERS = {"rating", "preference", "strength"}
_TRL, _MEDIA = PRESETS["trl"], Preset(("prompt",), ("sample",))
_PAIRS = replace(PRESETS["mmalign"], read=_compared)
_TEXT_PAIRS = replace(_TRL, read=_and(_text_pair, _compared))

LAYOUTS = {
    **PRESETS,
    "mmalign": _PAIRS,
    "trl": _TEXT_PAIRS,
    "pairs": _PAIRS,
    "unpaired": _PAIRS,
    "goal-pairs": replace(_PAIRS, read=_of_both),
    "scored": replace(_MEDIA, read=_scored),
    "ratings": replace(_MEDIA, unfold=_typed, read=_rated),
    "preferences": Preset(("prompt",), unfold=_typed, read=_preferred),
    "text-prompts": Preset((), read=text_prompt),
    "text-pairs": _TEXT_PAIRS,
    "text-unpaired": _TEXT_PAIRS,
    "text-goal-pairs": replace(_TRL, read=_and(_text_pair, _of_both)),
    "text-samples": Preset((), read=text_sample),
    "text-scored": Preset((), read=_and(text_sample, _scored)),
    "text-ratings": Preset((), unfold=_typed, read=_and(text_sample, _rated)),
    "text-preferences": Preset((), unfold=_typed, read=_text_preferred),
    "text-segments": Preset((), read=_text_segments),
    "directions": PRESETS["prompts"],
    "text-directions": Preset((), read=text_prompt),
}
