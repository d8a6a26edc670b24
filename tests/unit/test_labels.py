"""Rows of single samples that are good or bad, and how much better a winner is."""

import pytest

from mmalign import UserError
from mmalign.data.conditions import unpaired
from mmalign.data.sources import LabelledRows, Pairs

PAIR = {"prompt": "a cat", "chosen": "1.png", "rejected": "2.png"}


def test_labelled_rows_hold_prompt_sample_and_label(tmp_path, write):
    path = write({"prompt": "a cat", "sample": "1.png", "liked": False})
    (row,) = LabelledRows(path, label="liked")
    assert (row["prompt"].text, row["sample"], row["label"]) == ("a cat", tmp_path / "1.png", False)
    with pytest.raises(UserError, match="no column label; it has prompt, sample, liked"):
        LabelledRows(path)


def test_a_pair_taken_apart_is_a_good_and_a_bad_row(write):
    rows = unpaired(write(PAIR, {**PAIR, "prompt": "a dog"}))
    seen = [(rows[i]["prompt"].text, rows[i]["sample"].name, rows[i]["label"]) for i in range(len(rows))]
    assert seen == [(text, name, name == "1.png") for text in ("a cat", "a dog") for name in ("1.png", "2.png")]


@pytest.mark.parametrize(("extra", "expected"), [({"strength": 2}, 2.0), ({"scores": [0.9, 0.4]}, 0.5), ({}, None)])
def test_pairs_keep_how_much_better_the_winner_is(write, extra, expected):
    assert Pairs(write({**PAIR, **extra}))[0].get("strength") == expected
