"""The questions that the captioner learns to answer: their answers are right, neither side is rare, each form comes up."""

import random
import re
from collections import Counter

import pytest

from mmalign_lvlm.judges import QUESTION
from mmalign_shapes.images import scenes
from mmalign_shapes.oracle import judged
from mmalign_shapes.pretrain import questions
from mmalign_shapes.scenes import Kind, Scene, Thing

SCENE = Scene((Thing(Kind("red", "circle"), 20, 20, 9), Thing(Kind("blue", "square"), 48, 20, 9)), "left of", 230)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_each_sentence_of_a_description_is_asked_about_in_its_order(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "FALSE", share)
    asked = list(questions.sentences(SCENE, random.Random(0)))
    assert len(asked) == 3
    assert {answer for _, answer in asked} == {"No" if share else "Yes"}
    if not share:
        assert [text for text, _ in asked][:2] == ["There are two shapes.", "There is a red circle."]


def test_facts_are_answered_as_the_oracle_does_and_half_of_them_are_true() -> None:
    answers: Counter[str] = Counter()
    for seed, scene in enumerate(scenes("train", 60, 0)):
        for text, answer in questions.facts(scene, random.Random(seed), [*questions.FORMS]):
            said = text.replace("Is there", "There is").replace(" in the image?", ".")
            assert (answer == "Yes") == all(one.true for one in judged(said, scene))
            answers[answer] += 1
    assert 0.4 < answers["Yes"] / answers.total() < 0.6


def test_of_a_thing_that_is_not_there_nothing_is_true() -> None:
    facts = [fact for seed in range(300) for fact in questions.facts(SCENE, random.Random(seed), [*questions.FORMS])]
    about = {answer for text, answer in facts if "triangle" in text or "cross" in text}
    assert about == {"No"}


def test_the_judge_of_the_other_plugin_asks_so() -> None:
    assert questions._JUDGE.format("It is red.") == QUESTION.replace("{fact}", "It is red.")


def test_a_dialogue_begins_as_a_judge_asks_or_with_the_bare_sentence() -> None:
    asked = [questions.dialogue(SCENE, random.Random(seed), questions.EVEN) for seed in range(60)]
    assert all(1 <= len(dialogue) <= 8 for dialogue in asked)
    first = [dialogue[0][0] for dialogue in asked]
    for form in ("Is this true of the picture: ", "Is there a ", "There "):
        assert any(text.startswith(form) for text in first)
    assert not any(text.startswith("Is this true") for dialogue in asked for text, _ in dialogue[1:])


def test_only_what_is_wanted_is_asked_and_every_form_comes_up() -> None:
    for mix in (questions.EVEN, questions.SHAPES_FIRST, questions.THINGS_FIRST):
        assert set(mix.forms) == set(questions.FORMS)
    asked = [text for seed in range(30) for text, _ in questions.facts(SCENE, random.Random(seed), ["number"], 3)]
    assert len(asked) == 90
    assert all(re.fullmatch(r"There (is|are) (one|two|three|four) shapes?\.", text) for text in asked)
