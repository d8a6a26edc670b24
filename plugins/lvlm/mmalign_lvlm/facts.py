"""Ask a model in words what a segment claims, and read its answer: atomic facts of existence, attributes and relations.

The model answers with one JSON object:

    {"objects": ["dog"], "attributes": [["dog", "brown"]], "relations": [["dog", "next to", "child"]]}
"""

import json
from collections.abc import Iterator
from typing import Any

from mmalign.records import Answer, Fact

_TASK = """\
Below is a description of a picture, and one part of it. List what this part claims, as one JSON object:
"objects": things it says are there, each a singular noun without its properties;
"attributes": [thing, property] where it says what a thing is like: its colour, size, number, material or state;
"relations": [thing, relation, other thing] where it says how two things stand to each other; the relation is what follows "is".
Replace pronouns by the thing they stand for. Claim nothing that the part does not say. A list may be empty.

Description: Two kids play in a park. Behind them, a wooden bench stands under an old tree.
Part: Behind them, a wooden bench stands under an old tree.
JSON: {"objects": ["bench", "tree"], "attributes": [["bench", "wooden"], ["tree", "old"]], \
"relations": [["bench", "under", "tree"], ["bench", "behind", "kids"]]}

Description: A man holds a striped umbrella. It looks like a lovely day.
Part: A man holds a striped umbrella.
JSON: {"objects": ["man", "umbrella"], "attributes": [["umbrella", "striped"]], "relations": [["man", "holding", "umbrella"]]}

Description: A man holds a striped umbrella. It looks like a lovely day.
Part: It looks like a lovely day.
JSON: {"objects": [], "attributes": [], "relations": []}
"""
_ASKED = "{task}\nDescription: {text}\nPart: {part}\nJSON:"

AGAIN = 'Answer with the JSON object alone, with the keys "objects", "attributes" and "relations".'
"""What a model is told that answered with anything else."""


def asked(answer: Answer) -> list[str]:
    """For each piece of an answer the request to list its facts; it needs no picture."""
    pieces = [answer.text[start:end] for start, end in answer.spans]
    return [_ASKED.format(task=_TASK, text=" ".join(answer.text.split()), part=" ".join(p.split())) for p in pieces]


def read(text: str) -> list[Fact] | None:
    """The facts in what a model answered; None if that is not as it was asked for."""
    found = _object(text)
    try:
        return None if found is None else list(dict.fromkeys(_facts(found)))
    except (KeyError, TypeError, ValueError):
        return None


def _object(text: str) -> Any:
    """The first JSON object in a text, whatever stands around it."""
    start = text.find("{")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except (ValueError, RecursionError):  # a ValueError is also a number of thousands of digits
        return None


def _facts(found: Any) -> Iterator[Fact]:
    """Raises KeyError, TypeError or ValueError where the object is not of the form that was asked for."""
    for name in _list(found["objects"]):
        (thing,) = _words([name])
        yield Fact("existence", f"There is {'an' if thing[0].lower() in 'aeiou' else 'a'} {thing}.")
    for pair in _list(found["attributes"]):
        thing, attribute = _words(pair)
        yield Fact("attribute", f"The {thing} is {attribute}.")
    for triple in _list(found["relations"]):
        thing, relation, other = _words(triple)
        yield Fact("relation", f"The {thing} is {relation} the {other}.")


def _words(cell: Any) -> list[str]:
    if not all(isinstance(word, str) and word.strip() for word in _list(cell)):
        raise ValueError
    return [" ".join(word.split()) for word in cell]


def _list(cell: Any) -> list[Any]:
    if not isinstance(cell, list):
        raise ValueError
    return cell
