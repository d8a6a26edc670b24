"""The ways in which mmalign says no.

All are one sentence or more for a person: the thing, the place and the remedy. The command line prints them without a
traceback; everything else that is raised is a defect and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend: a key, a file, a name. Exit code 2; nothing was overwritten."""


class BadRow(UserError):
    """A row of data that cannot be used. Training stops with it, or leaves the row out and counts it (`data.on_bad_row`)."""


class RunFailure(Exception):
    """The run itself went wrong although the input was right (for example five non-finite steps). Exit code 1."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The phrase `, did you mean 'x'?` for the nearest known word, or `""` when nothing is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""
