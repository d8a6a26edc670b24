"""Prompts: what is held out never occurs in training, in any order and under any relation."""

import pytest

from mmalign.errors import UserError
from mmalign_shapes import grammar
from mmalign_shapes.prompts import ShapesPrompts, captions


def _texts(prompts: ShapesPrompts) -> list[str]:
    return [prompts[index]["prompt"].text for index in range(len(prompts))]


def test_no_pair_of_things_is_in_both_splits() -> None:
    train, held_out = ({frozenset(c.kinds) for c in captions(split)} for split in ("train", "held-out"))
    assert not train & held_out
    assert 0.1 < len(held_out) / len(train | held_out) < 0.3


def test_the_split_is_fixed() -> None:
    assert grammar.read("a red circle left of a blue square") in captions("train")
    assert str(captions("held-out")[0]) == str(captions("held-out")[0])


def test_prompts_are_different_readable_and_the_same_for_the_same_seed() -> None:
    texts = _texts(ShapesPrompts("held-out", size=64, seed=1))
    assert len(set(texts)) == 64
    assert all(grammar.read(text) in captions("held-out") for text in texts)
    assert texts == _texts(ShapesPrompts("held-out", size=64, seed=1))
    assert texts != _texts(ShapesPrompts("held-out", size=64, seed=2))


@pytest.mark.parametrize(
    ("options", "word"), [({"split": "test"}, "held-out"), ({"size": 0}, "size"), ({"size": 10**6}, "size")]
)
def test_impossible_options_are_refused_in_words(options: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        ShapesPrompts(**options)
