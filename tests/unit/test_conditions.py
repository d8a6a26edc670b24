"""Prompts made by templates, pairs taken apart or turned round by a goal, and rows with scores."""

import math

import pytest
import torch

from mmalign import UserError
from mmalign.data.conditions import goal_pairs, text_goal_pairs, text_unpaired, unpaired
from mmalign.data.directions import directions, text_directions
from mmalign.data.sources import Prompts, SampleRows, ScoredRows
from mmalign.data.texts import TextPairs, TextSamples, TextScored
from mmalign.objectives import flow_rwr
from mmalign.records import Samples
from mmalign.rewards.weighted import CheckedReward, WeightedReward

PAIR = {"prompt": "a cat", "chosen": "1.png", "rejected": "2.png", "scores": [8, 3.5]}
SAID = {"prompt": "What?", "completion": "A cat.", "score": 7, "critique": "too {short}"}


# ---- templates


def test_a_template_puts_the_rows_own_columns_into_its_prompt(write):
    found = TextSamples(write(SAID), template="{prompt} Feedback: {critique} ({score}/10)")[0]
    assert found["prompt"].text == "What? Feedback: too {short} (7/10)"
    assert found["sample"] == "A cat."
    media = SampleRows(write({"prompt": "a cat", "sample": "1.png", "style": "ink"}), template="{prompt}, {style}")[0]
    assert media["prompt"].text == "a cat, ink"


def test_a_template_names_prompts_of_a_file_too(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\n")
    found = Prompts(str(file), template="{prompt}, score 10")
    assert [found[i]["prompt"].text for i in range(2)] == ["a cat, score 10", "a dog, score 10"]


def test_without_a_template_nothing_changes_and_history_stays(write):
    said = [
        {"role": role, "content": text} for role, text in (("user", "Hi."), ("assistant", "Yes."), ("user", "What?"))
    ]
    row = {**SAID, "prompt": said}
    plain, asked = (
        TextSamples(write(row))[0]["prompt"],
        TextSamples(write(row), template="{prompt} Be good.")[0]["prompt"],
    )
    assert plain.text == "What?"
    assert asked.text == "What? Be good."
    assert plain.history == asked.history


def test_an_unknown_column_in_a_template_is_named_with_its_row(write):
    with pytest.raises(UserError, match=r"row 1: template: the row has no column 'scor', did you mean 'score'"):
        TextSamples(write(SAID), template="{prompt} {scor}")[0]


# ---- scores


def test_scored_rows_hold_their_score_and_rivals(write):
    row = {"prompt": "a cat", "sample": "1.png", "quality": "2.5", "rivals": [1.0, 2.5]}
    found = ScoredRows(write(row), score="quality")[0]
    assert (found["score"], found["rivals"]) == (2.5, [1.0, 2.5])
    text = TextScored(write(SAID))[0]
    assert text["score"] == 7.0
    assert "rivals" not in text
    with pytest.raises(UserError, match="no column score; it has prompt, sample, quality, rivals"):
        ScoredRows(write(row))
    with pytest.raises(UserError, match="score"):
        TextScored(write({"prompt": "x", "completion": "y"}))


def test_pairs_of_texts_keep_how_good_their_sides_are(write):
    row = TextPairs(write({"prompt": "What?", "chosen": "A cat.", "rejected": "A dog.", "scores": [2, 0.5]}))[0]
    assert (row["strength"], row["scores"]) == (1.5, [2, 0.5])


# ---- pairs under a condition


def test_chain_of_hindsight_asks_for_what_each_side_is(write):
    asked = {"good": "{prompt} Well:", "bad": "{prompt} Badly:"}
    media = unpaired(write(PAIR), **asked)
    assert [(media[i]["prompt"].text, media[i]["sample"].name, media[i]["label"]) for i in range(len(media))] == [
        ("a cat Well:", "1.png", True),
        ("a cat Badly:", "2.png", False),
    ]
    texts = text_unpaired(write({"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}), **asked)
    assert [(texts[i]["prompt"].text, texts[i]["sample"]) for i in range(2)] == [
        ("What? Well:", "A cat."),
        ("What? Badly:", "A dog."),
    ]


def test_a_goal_turns_the_pair_round_and_doubles_the_data(write):
    tie = {**PAIR, "scores": [4, 4]}
    rows = goal_pairs(write(tie, PAIR), template="{prompt}, score {goal}")
    assert [(rows[i]["prompt"].text, rows[i]["chosen"].name, rows[i]["rejected"].name) for i in range(len(rows))] == [
        ("a cat, score 8", "1.png", "2.png"),
        ("a cat, score 3.5", "2.png", "1.png"),
    ]
    texts = text_goal_pairs(write({"prompt": "What?", "chosen": "yes", "rejected": "no", "scores": [1, 0]}))
    assert [(texts[i]["chosen"], texts[i]["rejected"]) for i in range(2)] == [("yes", "no"), ("no", "yes")]
    assert texts[1]["prompt"].text == "What?\nThe answer has a score of 0."


@pytest.mark.parametrize(
    ("row", "says"),
    [({**PAIR, "scores": [4, 4]}, "no pair with a preference"), ({**PAIR, "scores": None}, "pair 1 has no `scores`")],
)
def test_pairs_without_different_scores_have_no_goal(row, says, write):
    with pytest.raises(UserError, match=says):
        goal_pairs(write(row))


# ---- directions


BOTH = ("helpful", "brief")


def test_a_direction_is_a_unit_vector_that_the_prompt_shows_and_the_rewards_follow(write):
    rows = directions(write(*[{"prompt": "a cat"}] * 20), BOTH)
    for row in (rows[i] for i in range(20)):
        v = [row["prompt"].metadata["weights"][name] for name in BOTH]
        assert math.hypot(*v) == pytest.approx(1)
        assert -math.pi / 4 <= math.atan2(v[1], v[0]) <= math.pi / 4
        shown = "helpful {:.0f}, brief {:.0f}".format(*(100 * one for one in v))
        assert row["prompt"].text == f"a cat\nWeigh the answer by {shown}."
    assert len({rows[i]["prompt"].text for i in range(20)}) > 5
    assert rows[3] == rows[3]
    scores = {"helpful": [1.0, 0.0], "brief": [0.0, 3.0], "safe": [5.0, 5.0]}
    rewards = [CheckedReward(name, lambda samples, name=name: torch.tensor(scores[name])) for name in scores]
    asked = [rows[i]["prompt"] for i in range(2)]
    found = WeightedReward(rewards, [1.0, 1.0, 1.0])(Samples(asked, ["x", "y"])).values
    expected = [5 + asked[0].metadata["weights"]["helpful"], 5 + 3 * asked[1].metadata["weights"]["brief"]]
    assert found.tolist() == pytest.approx(expected)


def test_one_angle_is_asked_for_by_naming_it_twice(write):
    (row,) = (directions(write({"prompt": "a cat"}), BOTH, degrees=(90, 90), template="{direction}: {prompt}"))[
        0
    ].values()
    assert row.text == "helpful 0, brief 100: a cat"
    said = [
        {"role": role, "content": text} for role, text in (("user", "Hi."), ("assistant", "Yes."), ("user", "What?"))
    ]
    text = text_directions(write({"prompt": said}), BOTH, degrees=(0, 0))[0]["prompt"]
    assert text.text == "What?\nWeigh the answer by helpful 100, brief 0."
    assert len(text.history) == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [({"rewards": ("a", "a")}, "these are both 'a'"), ({"rewards": BOTH, "degrees": (45, -45)}, "smaller one first")],
)
def test_a_direction_that_leads_nowhere_is_refused(given, says, write):
    with pytest.raises(UserError, match=says):
        directions(write({"prompt": "a cat"}), **given)


# ---- classes of quality


def test_c_rlft_asks_for_a_class_and_weighs_by_its_reward(write):
    """OpenChat's: the prompt names where a sample comes from, and the coarse reward of that place is its weight."""
    expert, other = ({**SAID, "source": name, "score": score} for name, score in (("expert", 1.0), ("crowd", 0.1)))
    rows = TextScored(write(expert, other), template="[{source}] {prompt}")
    assert [rows[i]["prompt"].text for i in range(2)] == ["[expert] What?", "[crowd] What?"]
    scores = torch.tensor([rows[i]["score"] for i in range(2)])
    found = flow_rwr.loss(torch.tensor([-1.0, -1.0]), scores).values
    assert found[0] > found[1] > 0
