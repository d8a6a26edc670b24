"""Numbers of captions: counted by hand, and the same as the rewards say of one caption."""

import random

import pytest

from mmalign.builtin.statistics import estimates
from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.metrics import Captions
from mmalign_shapes.rewards import CaptionOracle
from mmalign_shapes.scenes import Kind, Scene, Thing, draw_scene

SCENE = Scene((Thing(Kind("red", "circle"), 15, 32, 9), Thing(Kind("blue", "square"), 48, 32, 9)), "left of", 230)
TRUE = "There are two shapes. There is a red circle. It is left of a blue square."


def asked(*texts: str, scene: Scene = SCENE) -> Samples:
    return Samples([Prompt("Describe the picture.", {"scene": scene})] * len(texts), list(texts))


def numbers(*texts: str) -> dict[str, float]:
    rows = Captions().counts(asked(*texts))
    return {name: found["mean"] for name, found in estimates(Captions().numbers, rows).items()}


def test_a_true_caption_has_no_hallucination_and_full_recall():
    found = numbers(TRUE)
    assert found == {
        "hallucination": 0,
        "hallucination/existence": 0,
        "hallucination/attribute": 0,
        "hallucination/relation": 0,
        "recall": 1,
        "length": 16,
        "statements": 6,
    }


def test_shares_are_of_all_statements_by_type():
    wrong = "There are three shapes. There is a green circle. It is right of a blue square."
    found = numbers(TRUE, wrong)  # six statements each; in the second three are false
    assert found["hallucination"] == pytest.approx(3 / 12)
    assert found["hallucination/existence"] == pytest.approx(1 / 6)
    assert found["hallucination/attribute"] == pytest.approx(1 / 4)
    assert found["hallucination/relation"] == pytest.approx(1 / 2)
    assert found["recall"] == pytest.approx(3 / 4)


def test_a_caption_weighs_what_it_says_and_silence_costs_recall_and_length():
    found = numbers(TRUE, "There is a cross.")
    assert found["hallucination"] == pytest.approx(1 / 7)
    assert numbers(TRUE, "")["hallucination"] == 0
    assert numbers(TRUE, "")["recall"] == 1 / 2
    assert numbers("")["hallucination"] == 0
    assert numbers("")["statements"] == 0


def test_it_counts_what_the_reward_sees():
    rng = random.Random(3)
    for _ in range(30):
        scene = draw_scene(rng, rng.choice((2, 3, 4)))
        text = str(hallucinated(describe(scene, rng), scene, 0.5, rng))
        samples = asked(text, scene=scene)
        reward = CaptionOracle()(samples).dimensions
        found = Captions().numbers(dict(Captions().counts(samples)[0]))
        for name in ("hallucination", "recall", "length", "statements"):
            assert float(reward[name]) == pytest.approx(found[name])
        for name in ("existence", "attribute", "relation"):
            assert float(reward[name]) == pytest.approx(found[f"hallucination/{name}"])


def test_a_prompt_without_scene_is_named():
    with pytest.raises(UserError, match="use prompts of shapes-images"):
        Captions().counts(Samples([Prompt("What is this?")], ["a cat"]))
