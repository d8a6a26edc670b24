"""Rewards that are rules: boxes, confidence and answers, with the golden numbers of Visual-RFT."""

import pytest
import torch

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_lvlm.rewards import boxes
from mmalign_lvlm.rewards.verifiable import BoxConfidence, BoxOverlap, ExactAnswer

THERE = [(0, 0, 10, 10), (20, 20, 30, 30)]
SAID = (
    "<think>two of them</think> <answer>[{'Position': [50, 50, 60, 60], 'Confidence': 0.4}, "
    "{'Position': [0, 0, 10, 8], 'Confidence': 0.9}, {'Position': [21, 20, 30, 30], 'Confidence': 0.8}]</answer>"
)


def scored(reward, text: str, **told):
    prompt = Prompt("where?", told)
    found = reward(Samples([prompt], [text]))
    return (found if isinstance(found, torch.Tensor) else found.values).item()


def test_golden_numbers():
    assert scored(BoxOverlap(), SAID, boxes=THERE) == pytest.approx(0.566667, abs=1e-6)
    assert scored(BoxConfidence(), SAID, boxes=THERE) == pytest.approx(0.766667, abs=1e-6)
    assert boxes.giou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert boxes.giou((0, 0, 1, 1), (2, 2, 3, 3)) == pytest.approx(-0.777778, abs=1e-6)


def test_the_order_of_boxes_does_not_matter_where_confidences_differ():
    said = boxes.said(SAID)
    assert said is not None
    assert boxes.said(SAID.replace("[{", "[{'Position': [0, 0, 10, 8], 'Confidence': 0.9}, {")) == said
    assert [one.confidence for one in said] == [0.9, 0.8, 0.4]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[1, 2, 3, 4]", [(1, 2, 3, 4)]),
        ("It is at [1,2,3,4].", [(1, 2, 3, 4)]),
        ("<answer>[[1, 2, 3, 4], [5, 6, 7, 8]]</answer>", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ('[{"Position": [1, 2, 3, 4], "Confidence": 0.5}]', [(1, 2, 3, 4)]),
        ("<answer>[]</answer>", []),
        ("<answer>[1, 2, 3]</answer>", None),
        ("[4, 3, 2, 1]", None),
        ("[{'Box': [1, 2, 3, 4]}]", None),
        ("[1, 2, 3, 'x']", None),
        ("no object", None),
        ("[" * 10_000, None),
        ("[1, 2, nan, 4]", None),
        ("[0, 0, 1e999, 0]", None),
        (f"[1, 2, 3, 1{'0' * 320}]", None),
        ("['1234']", None),
        ("", None),
    ],
)
def test_what_is_read(text, read):
    told = boxes.said(text)
    assert (told if told is None else [one.box for one in told]) == read


def test_a_box_counts_once_and_matches_one():
    assert scored(BoxOverlap(), "[[0,0,10,10],[0,0,10,10]]", boxes=THERE[:1]) == 1
    assert scored(BoxOverlap(), "[[0,0,10,10],[0,0,10,8]]", boxes=THERE[:1]) == 0.5


def test_little_overlap_is_none_unless_matching_is_off():
    assert scored(BoxOverlap(), "[0, 0, 10, 4]", boxes=THERE[:1]) == 0
    assert scored(BoxOverlap(matched=False), "[0, 0, 10, 4]", boxes=THERE[:1]) == pytest.approx(0.4)


def test_nothing_there_is_rightly_answered_by_nothing():
    assert scored(BoxOverlap(), "[]", boxes=[]) == 1
    assert scored(BoxOverlap(), "[0, 0, 1, 1]", boxes=[]) == 0
    assert scored(BoxOverlap(), "nothing", boxes=[]) == 0
    assert scored(BoxConfidence(), "[]", boxes=[]) == 0


def test_answers_in_another_frame_are_converted():
    assert scored(BoxOverlap(frame=1000), "[0, 0, 500, 1000]", boxes=[(0, 0, 20, 30)], size=[40, 30]) == 1
    with pytest.raises(UserError, match="no `size`"):
        scored(BoxOverlap(frame=1000), "[0, 0, 500, 1000]", boxes=[(0, 0, 20, 30)])


@pytest.mark.parametrize(
    ("text", "within", "right"),
    [
        ("<answer>Golden retriever.</answer>", False, 1),
        ("golden  RETRIEVER", False, 1),
        ("a golden retriever", False, 0),
        ("a golden retriever", True, 1),
        ("retriever", True, 1),
        ("poodle", True, 0),
        ("<answer></answer>", True, 0),
        ("...", True, 0),
    ],
)
def test_answers(text, within, right):
    assert scored(ExactAnswer(within), text, answer="golden retriever") == right


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("-5", "5", 0),
        ("-5.", "-5", 1),
        ("1 5", "1.5", 0),
        ("It is (1.5)", "it is 1.5", 1),
        ("3 4", "3/4", 0),
        ("20", "20%", 0),
        ("1,000!", "1,000", 1),
        ("T-shirt", "t shirt", 1),
    ],
)
def test_signs_and_points_belong_to_numbers(text, truth, right):
    assert scored(ExactAnswer(), text, answer=truth) == right


@pytest.mark.parametrize(
    ("reward", "told", "message"),
    [
        (BoxOverlap(), {}, "has no `boxes`"),
        (BoxOverlap(), {"boxes": [[1, 2, 3]]}, "has no `boxes`"),
        (ExactAnswer(), {"answer": " "}, "has no `answer`"),
    ],
)
def test_a_prompt_without_its_truth_is_named(reward, told, message):
    with pytest.raises(UserError, match=rf"prompt 'where\?' {message}"):
        scored(reward, "[1, 2, 3, 4]", **told)


def test_no_samples_have_no_scores():
    assert BoxOverlap()(Samples([], [])).values.shape == ExactAnswer()(Samples([], [])).shape == (0,)
