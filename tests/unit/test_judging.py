"""From verdicts to labels: what is not judged is neither true nor false, and nothing is lost on the way."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.judging import CLASSES, KINDS, findings, label, labelled, tally
from mmalign.records import Fact, Prompt, Verdict

SAID = ("yes", "no", "moot", "none")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], "absent"),
        (["moot"], "absent"),
        (["yes"], "faithful"),
        (["yes", "moot", "yes"], "faithful"),
        (["yes", "no"], "hallucinated"),
        (["none", "no"], "hallucinated"),
        (["none"], None),
        (["yes", "none"], None),
        (["moot", "none"], None),
    ],
)
def test_a_label(said, expected):
    assert {label(list(order)) for order in itertools.permutations(said)} == {expected}


@given(st.lists(st.sampled_from(SAID)))
def test_one_false_fact_makes_any_segment_hallucinated(said):
    assert label([*said, "no"]) == "hallucinated"


@given(st.lists(st.sampled_from(SAID)))
def test_no_verdict_never_counts_as_yes_or_no(said):
    without = label(said)
    assert label([*said, "none"]) == ("hallucinated" if without == "hallucinated" else None)


class Words:
    """A judge to whom each word is a fact, of the kind that its first letter names; "?" it cannot read."""

    def __init__(self, **verdicts):
        self.verdicts = verdicts
        self.asked = []

    def facts(self, answers):
        kinds = {kind[0]: kind for kind in KINDS}
        pieces = [[answer.text[a:b].strip(".").split() for a, b in answer.spans] for answer in answers]
        return [[None if "?" in p else [Fact(kinds[word[0]], word) for word in p] for p in every] for every in pieces]

    def verify(self, questions):
        self.asked += [(prompt.text, fact.text) for prompt, fact in questions]
        return [Verdict(self.verdicts.get(fact.text, "yes"), 0.5) for _, fact in questions]


def cut(text):
    ends = [i + 1 for i, letter in enumerate(text) if letter == "."]
    return list(zip([0, *ends], ends, strict=False))


def test_each_segment_gets_the_labels_of_its_own_facts():
    judge = Words(**{"a2": "no", "r1": "none"})
    texts = ["e1.e2 a2.", "", "?.r1 a1."]
    found = findings([Prompt("x"), Prompt("y"), Prompt("z")], texts, cut, *[judge] * 2)
    first, second, third = ([piece.labels for piece in pieces] for pieces in found)
    assert first == [
        {"existence": "faithful", "attribute": "absent", "relation": "absent"},
        {"existence": "faithful", "attribute": "hallucinated", "relation": "absent"},
    ]
    assert second == []
    assert third == [dict.fromkeys(KINDS), {"existence": "absent", "attribute": "faithful", "relation": None}]
    assert judge.asked == [("x", "e1"), ("x", "e2"), ("x", "a2"), ("z", "r1"), ("z", "a1")]


def test_what_is_kept_on_disk_and_counted():
    judge = Words(**{"a2": "no", "r1": "none"})
    texts = ["e1.e2 a2.", "", "?.r1 a1.", "?."]
    found = findings([Prompt("x")] * 4, texts, cut, judge, judge)
    kept = [labelled(pieces) for pieces in found]
    assert [[piece[:2] for piece in pieces] for pieces in kept] == [[[0, 3], [3, 9]], [], [[2, 8]], []]
    rows = [{"segments": some, "facts": [p.plain() for p in pieces]} for some, pieces in zip(kept, found, strict=True)]
    assert rows[0]["facts"][1] == [
        3,
        9,
        [
            {"kind": "existence", "text": "e2", "said": "yes", "p_yes": 0.5},
            {"kind": "attribute", "text": "a2", "said": "no", "p_yes": 0.5},
        ],
    ]
    assert rows[3]["facts"] == [[0, 2, None]]
    told = tally(rows)
    assert {name: told[name] for name in ("answers", "empty", "unlabelled", "segments", "unread")} == {
        "answers": 4,
        "empty": 1,
        "unlabelled": 2,
        "segments": 5,
        "unread": 2,
    }
    assert told["verdicts"] == {
        "existence": {"yes": 2},
        "attribute": {"no": 1, "yes": 1},
        "relation": {"none": 1},
    }
    assert told["labels"]["relation"] == {"absent": 2, "none": 1}
    assert set(told["labels"]["existence"]) <= {*CLASSES, "none"}


def test_a_judge_that_leaves_questions_out_is_told_so():
    judge = Words()
    judge.verify = lambda questions: []
    with pytest.raises(ValueError, match="1 questions and gave 0 verdicts"):
        findings([Prompt("x")], ["e1."], cut, judge, judge)
