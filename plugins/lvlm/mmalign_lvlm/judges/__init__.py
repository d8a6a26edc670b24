"""Judges of answers: vision-language models that are asked whether a fact is true of a picture."""

from mmalign.errors import UserError

QUESTION = 'Is this true of the picture: "{fact}" Answer yes or no.'
"""How a judge is asked about a fact, unless its `template` says otherwise."""


def checked(template: str) -> str:
    """A template, if it has a place for the fact; else a UserError."""
    if "{fact}" not in template:
        raise UserError(f"template '{template[:60]}' has no place for the fact: write {{fact}} where it belongs")
    return template
