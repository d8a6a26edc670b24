"""Pictures to describe and what is said of them: sources of rows, and the oracle of captions as a reward."""

import random

import pytest
import torch
from torch.testing import assert_close

from mmalign import options, plugins
from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign.rewards.weighted import CheckedReward
from mmalign_shapes import oracle
from mmalign_shapes.images import ShapesCaptions, ShapesCorrections, ShapesImages
from mmalign_shapes.rewards import CaptionOracle, CaptionRecall
from mmalign_shapes.scenes import Kind, place

SOURCES = [ShapesImages, ShapesCaptions, ShapesCorrections]


def _answers(*texts: str) -> Samples:
    """Answers about a red circle to the left of a blue square."""
    scene = place(random.Random(0), [Kind("red", "circle"), Kind("blue", "square")], "left of")
    return Samples([Prompt("Describe the picture.", {"scene": scene})] * len(texts), texts)


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_the_same_whenever_they_are_asked_for(source: type[ShapesImages]) -> None:
    rows, again, other = source(size=4, seed=1), source(size=4, seed=1), source(size=4, seed=2)
    assert len(rows) == 4
    for i in (2, 0, 2):
        assert torch.equal(rows[i]["prompt"].images[0], again[i]["prompt"].images[0])
        assert {k: v for k, v in rows[i].items() if k != "prompt"} == {
            k: v for k, v in again[i].items() if k != "prompt"
        }
    assert not torch.equal(rows[0]["prompt"].images[0], other[0]["prompt"].images[0])


def test_a_picture_shows_the_scene_that_comes_with_it() -> None:
    rows = ShapesImages(size=12)
    for i in range(len(rows)):
        prompt = rows[i]["prompt"]
        (pixels,), scene = prompt.images, prompt.metadata["scene"]
        assert pixels.shape == (3, 64, 64)
        assert 2 <= len(scene.things) <= 4
        seen = oracle.look(pixels)
        assert sorted(str(one.kind) for one in seen.things) == sorted(map(str, scene.kinds))


def test_no_combination_is_in_both_splits() -> None:
    train, held_out = (
        {frozenset(scene.kinds) for scene in ShapesImages(split, 150)._scenes} for split in ("train", "held-out")
    )
    assert not train & held_out


def test_captions_are_true_and_corrections_correct() -> None:
    reward, captions, pairs = CaptionOracle(), ShapesCaptions(size=20), ShapesCorrections(size=20, share=0.1)
    told = [captions[i] for i in range(20)]
    assert reward(Samples([row["prompt"] for row in told], [row["sample"] for row in told])).values.tolist() == [0] * 20
    for row in (pairs[i] for i in range(20)):
        chosen, rejected = reward(Samples([row["prompt"]] * 2, [row["chosen"], row["rejected"]])).values
        assert chosen == 0
        assert rejected < 0
        assert row["chosen"].count(".") == row["rejected"].count(".")


def test_corrections_are_pairs_of_the_oracle_with_the_asked_share() -> None:
    pairs = ShapesCorrections(size=150, share=0.3)
    rows = [pairs[i] for i in range(len(pairs))]
    scores = CaptionOracle()(Samples([row["prompt"] for row in rows], [row["rejected"] for row in rows]))
    assert float(scores.dimensions["hallucination"].mean()) == pytest.approx(0.32, abs=0.05)  # one at least is false


@pytest.mark.parametrize(
    ("options", "word"), [({"split": "test"}, "held-out"), ({"size": 0}, "size"), ({"share": 0.0}, "share")]
)
def test_impossible_options_are_refused_in_words(options: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        ShapesCorrections(**options)


def test_the_caption_oracle_by_hand() -> None:
    scores = CaptionOracle()(
        _answers(
            "There are two shapes. There is a red circle. It is left of a blue square.",
            "There are two shapes. There is a green circle. It is right of a blue square.",
            "There is a red cross.",
            "I cannot say.",
            "There is a red circle. There is a red circle.",
        )
    )
    assert_close(scores.values, torch.tensor([0, -2 / 6, -1, -1, 0]))
    found = {name: [round(value, 3) for value in column.tolist()] for name, column in scores.dimensions.items()}
    assert found == {
        "hallucination": [0, 0.333, 1, 0, 0],
        "existence": [0, 0, 1, 0, 0],
        "attribute": [0, 0.5, 0, 0, 0],
        "relation": [0, 1, 0, 0, 0],
        "recall": [1, 0.5, 0, 0, 0.5],
        "statements": [6, 6, 1, 0, 2],
        "length": [16, 16, 5, 3, 10],
    }


def test_recall_is_what_saying_less_costs() -> None:
    little = _answers("There is a red circle.", "There is a red circle. There is a blue square.", "")
    assert CaptionOracle()(little).values.tolist() == [0, 0, -1]
    assert CaptionRecall()(little).values.tolist() == [0.5, 1, 0]


@pytest.mark.parametrize("name", ["caption-oracle", "caption-recall"])
def test_rewards_of_texts_keep_the_contract(name: str) -> None:
    spec = plugins.load().catalogue.find("reward", name).spec
    reward = CheckedReward(name, spec.load()(**options.parsed(spec, {})))
    texts = ["There is a red circle.", "There is a green square.", "nothing"]
    assert_close(reward(_answers(*texts[::-1])).values, reward(_answers(*texts)).values.flip(0))
    assert reward(_answers()).values.shape == (0,)
    assert_close(reward(_answers(texts[1])).values, reward(_answers(*texts)).values[1:2])


def test_a_prompt_without_a_scene_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="shapes-images"):
        CaptionOracle()(Samples([Prompt("Describe the picture.")], ["a red circle"]))
