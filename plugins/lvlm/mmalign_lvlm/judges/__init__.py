"""Judges of answers: vision-language models that are asked whether a fact is true of a picture."""

import re

from mmalign.errors import UserError

QUESTION = 'Is this true of the picture: "{fact}" Answer yes or no.'
"""How a judge is asked about a fact, unless its `template` says otherwise."""


_YES_OR_NO = re.compile(r"""\W*(yes|no)[\s*_"'`)\]]*($|[.,;:!?\n]|\s[-–—]\s)""", re.IGNORECASE)
"""The word alone or before a stop: "No idea" and "Yes and no" are neither."""


def yes_or_no(text: str) -> bool | None:
    """Whether an answer says yes; None where it says neither yes nor no."""
    match = _YES_OR_NO.match(text)
    return match[1].lower() == "yes" if match else None


def checked(template: str) -> str:
    """A template, if it has a place for the fact; else a UserError."""
    if "{fact}" not in template:
        raise UserError(f"template '{template[:60]}' has no place for the fact: write {{fact}} where it belongs")
    return template
