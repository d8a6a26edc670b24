"""Answers cut into sub-sentences."""

from itertools import pairwise

import pytest

from mmalign_lvlm.segments import last_word, split

GOLDEN = {
    "A man in a red shirt is riding a brown horse, a dog runs next to the horse on the sand, and the sky is blue.": [
        "A man in a red shirt is riding a brown horse,",
        "a dog runs next to the horse on the sand, and the sky is blue.",
    ],
    "Yes, there is a large brown dog sitting on the bench, next to a small child holding a red ball.": [
        "Yes, there is a large brown dog sitting on the bench,",
        "next to a small child holding a red ball.",
    ],
    "In the park, by the lake, several children are playing with a ball, while their parents watch them from a wooden "
    "bench.": [
        "In the park, by the lake,",
        "several children are playing with a ball,",
        "while their parents watch them from a wooden bench.",
    ],
}


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize("text", GOLDEN)
def test_golden_cases_of_the_splitter(text: str) -> None:
    assert pieces(text) == GOLDEN[text]


def test_a_short_piece_in_the_middle_joins_the_one_before_it() -> None:
    # "on the grass," has three words when the pause behind it would open the next.
    text = "Two small dogs are running, on the grass, behind them a tall man walks slowly."
    assert pieces(text) == ["Two small dogs are running, on the grass,", "behind them a tall man walks slowly."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There are three shapes. It is red.", ["There are three shapes.", "It is red."]),
        ("Mr. Smith met Dr. J. Brown at 3.5 km, i.e. far.", ["Mr. Smith met Dr. J. Brown at 3.5 km, i.e. far."]),
        ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
        ("There are cups, plates etc. on it. Good.", ["There are cups, plates etc. on it.", "Good."]),
        ("A list:\n\n1. A red car.\n2. A dog", ["A list:", "1. A red car.", "2. A dog"]),
        ("  It is red.  ", ["It is red."]),
        ("no stop at all", ["no stop at all"]),
        ("Une fenêtre bleue. Été à Paris 🙂. 3 cats.", ["Une fenêtre bleue.", "Été à Paris 🙂.", "3 cats."]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "\n\n"])
def test_a_text_without_words_has_no_segments(text: str) -> None:
    assert split(text) == []


@pytest.mark.parametrize("text", [*GOLDEN, "A, b, c, d! e? f; g h i j k l m.\nN o. P", "... ! ?"])
def test_segments_hold_every_word_once_in_order(text: str) -> None:
    spans = split(text)
    assert " ".join(pieces(text)).split() == text.split()
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(before[1] < after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "end", "found"),
    [
        ("A dog runs.", 11, "A dog runs"),
        ('He said "no!" Then', 13, 'He said "no'),
        ("un chien, là", 9, "un chien"),
        ("an ox", 5, "an ox"),
        ("... and", 3, "..."),
        ("", 0, ""),
    ],
)
def test_where_the_last_word_ends(text: str, end: int, found: str) -> None:
    assert text[: last_word(text, end)] == found
