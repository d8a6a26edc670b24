"""What was said of samples, read from files: what is kept, and what is refused by row and reason."""

import pytest
import torch

from mmalign import UserError
from mmalign.data.feedback import Preferences, Ratings, TextPreferences, TextRatings, TextSegments
from mmalign.errors import BadRow
from mmalign.objectives.labels import by_head
from mmalign.records import EVERY, Segment

PAIR = {"prompt": "what is this", "first": "a cat", "second": "a dog"}
SAID = {"prompt": "what is this", "completion": "a red cat"}


@pytest.mark.parametrize(
    ("told", "preferences", "strengths"),
    [
        ({"preference": "first"}, {EVERY: 1}, {}),
        ({"preference": "B", "strength": 3}, {EVERY: -1}, {EVERY: 3}),
        ({"preference": -1}, {EVERY: -1}, {}),
        ({"preferences": {"a": "tie", "b": "second", "c": None}}, {"a": 0, "b": -1}, {}),
        ({"preferences": {"a": "first"}, "strength": {"a": 2, "b": None}}, {"a": 1}, {"a": 2}),
    ],
)
def test_preferences_keep_dimensions_ties_and_strength(write, told, preferences, strengths):
    more = {**PAIR, **{key: told[key] if key == "strength" else "first" for key in told}}
    if "preferences" in told:
        more["preferences"] = {"a": "first"}
    for kind in (Preferences, TextPreferences):
        row = kind(write({**PAIR, **told}, more))[0]
        assert (row["preferences"], row["strengths"]) == (preferences, strengths)
        assert row["prompt"].text == "what is this"
    assert (row["first"], row["second"]) == ("a cat", "a dog")


def test_pairs_of_better_and_worse_are_preferences_too(tmp_path, write):
    pair = {"prompt": "a cat", "chosen": "1.png", "rejected": "2.png"}
    alike = {**pair, "scores": [0.5, 0.5]}
    rows = Preferences(write(pair, {**pair, "tie": True}, {**pair, "scores": [0.25, 0.75]}, alike))
    assert [row["preferences"][EVERY] for row in rows] == [1, 0, 1, 0]
    assert rows[0]["first"] == tmp_path / "1.png"
    assert rows[2]["strengths"] == {EVERY: 0.5}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"preference": "left"}, "'left' is no preference: it is first, second or tie"),
        ({"preference": float("nan")}, "nan is no preference"),
        ({"preference": None}, "nothing is preferred"),
        ({"preferences": {}}, "nothing is preferred"),
        ({"preferences": {"a": 0.5}}, "0.5 is no preference"),
        ({"preference": "first", "strength": float("nan")}, "nan is no strength"),
        ({"preference": "first", "strength": -1}, "it is 0 or more"),
        ({"preference": "first", "strength": "much"}, "'much' is no strength"),
    ],
)
@pytest.mark.parametrize("kind", [Preferences, TextPreferences])
def test_a_wrong_preference_is_named_by_its_row(write, kind, told, reason):
    path = write({**PAIR, "preference": "first", "strength": 1}, {**PAIR, **told})
    with pytest.raises(UserError, match=rf"rows\.jsonl: row 2: .*{reason}"):
        kind(path)


@pytest.mark.parametrize("kind", [Preferences, TextPreferences])
def test_what_nothing_can_be_learned_from_is_refused(write, kind):
    with pytest.raises(UserError, match="every pair is a tie"):
        kind(write({**PAIR, "preference": "tie"}, {**PAIR, "preferences": {"a": 0}}))
    with pytest.raises(UserError, match="which is better"):
        kind(write(PAIR))
    rows = kind(write({**PAIR, "preference": "tie"}, {**PAIR, "preference": "first", "second": "a cat"}))
    assert rows[0]["preferences"] == {EVERY: 0}
    with pytest.raises(UserError, match="row 2: both sides are the same"):
        rows[1]


def test_the_same_answer_twice_may_tie_and_an_empty_one_is_refused(write):
    same = {**PAIR, "second": "a cat", "preference": "tie"}
    rows = TextPreferences(write(same, {**PAIR, "first": " ", "preference": "second"}))
    assert rows[0]["first"] == rows[0]["second"]
    with pytest.raises(UserError, match="row 2: an answer is empty"):
        rows[1]


def test_ratings_keep_dimensions(write):
    picture = {"prompt": "a cat", "sample": "1.png"}
    assert Ratings(write({**picture, "rating": 3}))[0]["ratings"] == {EVERY: 3}
    told = Ratings(write({**picture, "ratings": {"a": 1}, "scenario": "OE"}))[0]["prompt"].metadata
    assert told == {"scenario": "OE"}
    assert TextRatings(write({**SAID, "ratings": {"a": 1.5, "b": None}}))[0]["ratings"] == {"a": 1.5}
    for value, reason in ((float("nan"), "nan is no rating"), (None, "no rating"), ("good", "'good' is no rating")):
        with pytest.raises(UserError, match=f"row 1: {reason}"):
            Ratings(write({**picture, "rating": value}))


def test_segments_are_kept_in_their_order(write):
    told = [[2, 9, {"existence": "faithful", "relation": None}], [0, 1, {"relation": "absent"}]]
    row = TextSegments(write({**SAID, "segments": told}))[0]
    assert row["segments"] == [Segment(0, 1, {"relation": "absent"}), Segment(2, 9, {"existence": "faithful"})]
    assert row["sample"] == "a red cat"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ([[2, 10, {"a": "good"}]], r"segment \[2, 10\] is not within the answer, which has 9 characters"),
        ([[3, 3, {"a": "good"}]], "not within"),
        ([[-1, 3, {"a": "good"}]], "not within"),
        ([[0, 3.5, {"a": "good"}]], "counts of characters"),
        ([[0, 3, {}]], "name a class"),
        ([[0, 3, {"a": float("nan")}]], "name a class"),
        ([[0, 3]], "is no segment"),
        ([], "no segment is labelled"),
        (None, "no segment is labelled"),
    ],
)
def test_a_segment_that_cannot_be_is_named_by_its_row(write, cell, reason):
    rows = TextSegments(write({**SAID, "segments": cell}))
    with pytest.raises(UserError, match=rf"row 1: {reason}|row 1: .*{reason}"):
        rows[0]


@pytest.mark.parametrize("kind", [Preferences, TextPreferences])
def test_a_preference_tells_whose_it_is(write, kind):
    rows = kind(write({**PAIR, "preference": "first", "annotator": "ann"}, {**PAIR, "preference": "second"}))
    assert [row["annotator"] for row in rows] == ["ann", ""]
    numbered = kind(write({**PAIR, "preference": "first", "annotator": 7}))
    assert numbered[0]["annotator"] == "7"


def test_videoalign_s_csv_is_preferences_by_dimension(tmp_path):
    """A is the first, B the second; same is a tie; invalid and empty say nothing; anything else is told by row."""
    head = "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B\n"
    (tmp_path / "rows.csv").write_text(
        head + "a.mp4,b.mp4,x,A,same,B,8,16,24,48\nc.mp4,d.mp4,y,invalid,,A,8,16,24,48\n"
    )
    rows = Preferences(str(tmp_path / "rows.csv"), preset="videoalign")
    assert rows[0]["preferences"] == {"VQ": 1.0, "MQ": 0.0, "TA": -1.0}
    assert (rows[0]["first"], rows[0]["second"]) == (tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert (rows[1]["prompt"].text, rows[1]["preferences"], rows[1]["annotator"]) == ("y", {"TA": 1.0}, "")
    (tmp_path / "few.csv").write_text(
        head + "a.mp4,b.mp4,x,A,same,B,8,16,24,48\nc.mp4,d.mp4,y,invalid,,invalid,8,16,24,48\ne.mp4,,z,A,A,A,8,16,,\n"
    )
    few = Preferences(str(tmp_path / "few.csv"), preset="videoalign")
    assert few[1]["preferences"] == {}
    labels = by_head([few[0]["preferences"], few[1]["preferences"]], ("VQ", "MQ"), torch.zeros(1))
    assert labels.isnan().tolist() == [[False, False], [True, True]]
    with pytest.raises(BadRow, match="row 3: the second side names no file"):
        few[2]
    (tmp_path / "wrong.csv").write_text(head + "a.mp4,b.mp4,x,A,same,C,8,16,24,48\n")
    with pytest.raises(UserError, match="row 1: column TA: label out of range: 'C'"):
        Preferences(str(tmp_path / "wrong.csv"), preset="videoalign")
    (tmp_path / "short.csv").write_text("path_A,prompt\na.mp4,x\n")
    with pytest.raises(UserError, match=r"no column path_B, VQ, MQ, TA; it has path_A, prompt\. Is preset right"):
        Preferences(str(tmp_path / "short.csv"), preset="videoalign")
    with pytest.raises(UserError, match="preset 'trl' is no layout of pictures or videos with labels"):
        Preferences(str(tmp_path / "rows.csv"), preset="trl")
