"""The layouts of known public preference data sets, mapped to prompt, chosen and rejected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """How a layout is read.

    columns: what a row must hold. pair: row -> {"prompt", "chosen", "rejected"}. label: the column that `decided` judges;
    rows that it calls undecided (ties) are left out.
    """

    columns: tuple[str, ...]
    pair: Callable[[Mapping[str, Any]], dict[str, Any]]
    label: str | None = None
    decided: Callable[[Any], bool] = lambda label: True


def _pick_a_pic(row: Mapping[str, Any]) -> dict[str, Any]:
    chosen, rejected = ("jpg_0", "jpg_1") if row["label_0"] > 0.5 else ("jpg_1", "jpg_0")
    return {"prompt": row["caption"], "chosen": row[chosen], "rejected": row[rejected]}


PRESETS = {
    "mmalign": Preset(("prompt", "chosen", "rejected"), dict),
    # Pick-a-Pic v1 and v2: label_0 is 1 when the first picture wins, 0 when the second does, 0.5 for a tie.
    "pick-a-pic": Preset(("caption", "jpg_0", "jpg_1", "label_0"), _pick_a_pic, "label_0", lambda label: label != 0.5),
}
