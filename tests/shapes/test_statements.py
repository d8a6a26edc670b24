"""Statements: what any text claims and where, and whether it is true of a scene."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign_shapes import grammar
from mmalign_shapes.descriptions import changes, describe, hallucinated
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import Kind, Scene, draw_scene, place
from mmalign_shapes.statements import TYPES, statements

seeds = st.integers(0, 2**32)


def _claims(text: str) -> list[tuple[str, str]]:
    """Type (None for no statement) and words of each statement."""
    return [(one.claim.type if one.claim else None, text[one.start : one.end]) for one in statements(text)]


def _scene(seed: int = 0) -> Scene:
    """A red circle to the left of a blue square."""
    return place(random.Random(seed), [Kind("red", "circle"), Kind("blue", "square")], "left of")


def _verdicts(text: str, scene: Scene) -> list[bool | None]:
    return [one.true for one in judged(text, scene)]


RED_CIRCLE = [("existence", "circle"), ("attribute", "red")]
BLUE_SQUARE = [("existence", "square"), ("attribute", "blue")]


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", []),
        (" . !\n", []),
        ("a red circle", RED_CIRCLE),
        ("There are three shapes.", [("existence", "three")]),
        ("There is a circle.", [("existence", "circle")]),
        ("THERE IS A RED CIRCLE", [("existence", "CIRCLE"), ("attribute", "RED")]),
        ("A picture of a red circle, and a blue square .", RED_CIRCLE + BLUE_SQUARE),
        ("There is a red circle. It is left of a blue square.", [*RED_CIRCLE, ("relation", "left of"), *BLUE_SQUARE]),
        ("a red circle  left  of a blue square", [*RED_CIRCLE, ("relation", "left  of"), *BLUE_SQUARE]),
        ("There is a circle. It is red.", RED_CIRCLE),
        ("The circle is red.", RED_CIRCLE),
        # What is said again claims nothing new.
        ("There is a red circle. There is a red circle. The red circle is red.", RED_CIRCLE),
        # Outside the grammar: a word, a thing, an "it" that is nothing yet, half a sentence.
        ("A lovely day! There is a red circle.", [(None, "A lovely day"), *RED_CIRCLE]),
        ("There is a red dog", [(None, "There is a red dog")]),
        ("It is above a blue square.", [(None, "It is above a blue square")]),
        ("There is a red circle left of", [(None, "There is a red circle left of")]),
    ],
)
def test_what_a_text_claims_and_where(text: str, claims: list[tuple[str | None, str]]) -> None:
    assert _claims(text) == claims


def test_it_is_what_the_last_sentence_without_it_named_first() -> None:
    told = statements(
        "There is a red circle. It is above a blue square. It is below a green cross. A cross is left of it."
    )
    subjects = [str(one.claim.things[0].shape) for one in told if one.claim and one.claim.type == "relation"]
    assert subjects == ["circle", "circle"]
    assert told[-1].claim is None


scraps = st.sampled_from([*"ab.,! \n", "red ", "a circle", "It is ", "above ", "there is ", "two shapes", "is red"])


@given(st.lists(scraps, max_size=30).map("".join) | st.text(max_size=30))
def test_any_text_is_read_and_statements_lie_in_it(text: str) -> None:
    found = statements(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(text[one.start : one.end].strip() for one in found)


def test_statements_are_true_false_or_neither() -> None:
    scene = _scene()
    assert _verdicts("There are two shapes. There is a red circle. It is left of a blue square.", scene) == [True] * 6
    assert _verdicts("There are three shapes.", scene) == [False]
    assert _verdicts("There is a green circle.", scene) == [True, False]
    assert _verdicts("Good morning.", scene) == [None]


def test_an_error_counts_once_where_it_begins() -> None:
    scene = _scene()
    # No cross is there: its colour and its place are no statements of their own.
    assert _verdicts("There is a red cross. It is left of a blue square.", scene) == [False, None, None, True, True]
    # The circle is not green, but it is to the left.
    assert _verdicts("There is a green circle. It is left of a blue square.", scene) == [True, False, True, True, True]


def test_a_wrong_relation_is_the_one_statement_that_is_false() -> None:
    found = judged("a red circle right of a blue square", _scene())
    assert [one.statement.claim.type for one in found if one.true is False] == ["relation"]


@settings(max_examples=50)  # places for four things take some trying
@given(seeds, st.integers(1, 4))
def test_descriptions_are_true_name_every_thing_and_relate_it_to_another(seed: int, count: int) -> None:
    scene = draw_scene(random.Random(seed), count)
    text = str(describe(scene, random.Random(seed)))
    found = judged(text, scene)
    assert all(one.true for one in found)
    types = [one.statement.claim.type for one in found]
    assert [types.count(name) for name in TYPES] == [1 + count, count, count - 1]


@settings(max_examples=50)  # places for four things take some trying
@given(seeds, st.integers(1, 4))
def test_each_change_makes_one_statement_false_by_one_word_and_has_its_type(seed: int, count: int) -> None:
    rng = random.Random(seed)
    scene = draw_scene(rng, count)
    true = describe(scene, rng)
    for name, change in changes(true, scene, rng):
        text = str(change(true))
        assert [one.statement.claim.type for one in judged(text, scene) if one.true is False] == [name]
        assert len(text.split()) == len(str(true).split()) or name == "relation"  # "above" is shorter than "left of"


def test_the_share_of_false_statements_is_as_asked_for() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng, rng.choice((2, 3))) for _ in range(800)]
    told = [str(hallucinated(describe(scene, rng), scene, 0.3, rng)) for scene in scenes]
    found = [
        one for text, scene in zip(told, scenes, strict=True) for one in judged(text, scene) if one.true is not None
    ]
    for name in TYPES:
        verdicts = [one.true for one in found if one.statement.claim.type == name]
        assert verdicts.count(False) / len(verdicts) == pytest.approx(0.3, abs=0.04)


def test_short_captions_are_statements_too() -> None:
    scene = _scene()
    for seed in range(20):
        assert _verdicts(grammar.say(grammar.caption_of(scene), random.Random(seed)), scene) == [True] * 5
