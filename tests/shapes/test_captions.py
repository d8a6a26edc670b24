"""Captions: what is said can be read back, and what is made wrong is wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign_shapes import grammar
from mmalign_shapes.grammar import Caption
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import RELATIONS, draw_scene, kinds, place

some_kinds = st.lists(st.sampled_from(kinds()), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def some_captions(draw: st.DrawFn) -> Caption:
    """Any caption that the grammar can say of a scene."""
    chosen = draw(some_kinds)
    return Caption(chosen, draw(st.sampled_from(list(RELATIONS))) if len(chosen) == 2 else None)


@given(some_captions(), st.integers(0, 2**32))
def test_every_way_of_saying_a_caption_reads_back_as_that_caption(caption: Caption, seed: int) -> None:
    assert grammar.read(str(caption)) == caption
    assert grammar.read(grammar.say(caption, random.Random(seed))) == caption


def test_captions_are_not_one_template() -> None:
    caption = grammar.read("a red circle left of a blue square")
    said = {grammar.say(caption, random.Random(seed)) for seed in range(50)}
    assert len(said) >= 4
    assert "a red circle is left of a blue square" in said


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a pink circle", "pink"),
        ("a red hexagon", "hexagon"),
        ("a red circle near a blue square", "near"),
        ("a red circle left of a blue dog", "dog"),
        ("", "''"),
    ],
)
def test_words_outside_the_grammar_are_named(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        grammar.read(text)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_all_statements_of_the_true_caption_are_true(seed: int, count: int) -> None:
    scene = draw_scene(random.Random(seed), count)
    assert all(one.true for one in judged(str(grammar.caption_of(scene)), scene))


@given(some_captions(), st.integers(0, 2**32))
def test_the_same_claim_from_the_other_thing_is_true_of_the_same_scene(caption: Caption, seed: int) -> None:
    scene = place(random.Random(seed), list(caption.kinds), caption.relation)
    turned = grammar.turned_round(caption)
    assert grammar.turned_round(turned) == caption
    assert all(one.true for one in judged(str(turned), scene))


@given(some_captions(), st.integers(0, 2**32))
def test_a_corrupted_caption_has_as_many_things_and_is_another_claim(caption: Caption, seed: int) -> None:
    wrong = grammar.corrupted(caption, random.Random(seed))
    assert wrong not in (caption, grammar.turned_round(caption))
    assert len(wrong.kinds) == len(caption.kinds)


@given(some_captions(), st.integers(0, 2**32))
def test_a_miscounted_caption_has_one_thing_more_or_less_and_can_be_said(caption: Caption, seed: int) -> None:
    wrong = grammar.miscounted(caption, random.Random(seed))
    assert abs(len(wrong.kinds) - len(caption.kinds)) == 1
    assert grammar.read(str(wrong)) == wrong
