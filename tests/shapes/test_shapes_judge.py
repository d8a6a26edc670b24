"""The oracle as a judge: its facts are the statements of a text, and each is judged alone as it is within the text."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmalign import UserError
from mmalign.judging import findings
from mmalign.records import Answer, Fact, Prompt
from mmalign_lvlm.segments import split
from mmalign_shapes import render
from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.images import scenes
from mmalign_shapes.judge import ShapesOracle, said
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import Kind, Scene, Thing
from mmalign_shapes.statements import Claim, Mention, statements

ORACLE = ShapesOracle()
SCENE = Scene((Thing(Kind("red", "circle"), 14, 32, 9), Thing(Kind("blue", "square"), 48, 32, 9)), "left of", 235)


def labels(text, scene=SCENE):
    found = findings([Prompt("?", {"scene": scene})], [text], split, ORACLE, ORACLE)[0]
    return [(text[one.start : one.end], *one.labels.values()) for one in found]


def test_labels_of_a_known_description():
    text = "There are three shapes. There is a red circle. It is left of a green square. There is a blue triangle."
    assert labels(text) == [
        ("There are three shapes.", "hallucinated", "absent", "absent"),
        ("There is a red circle.", "faithful", "faithful", "absent"),
        ("It is left of a green square.", "faithful", "hallucinated", "faithful"),
        # The triangle is not there: what colour it has is neither true nor false, so it is no further mistake.
        ("There is a blue triangle.", "hallucinated", "absent", "absent"),
    ]
    assert labels("It is right of a blue square. I like it.") == [
        ("It is right of a blue square.", "absent", "absent", "absent"),
        ("I like it.", "absent", "absent", "absent"),
    ]


@settings(max_examples=40)
@given(st.integers(0, 2**20))
def test_a_fact_is_judged_alone_as_within_the_text(seed):
    rng = random.Random(seed)
    (scene,) = scenes("train", 1, seed)
    text = str(hallucinated(describe(scene, rng), scene, 0.4, rng))
    whole = [one for one in judged(text, scene) if one.statement.claim is not None]
    answer = Answer(Prompt("?", {"scene": scene}), text, split(text))
    found = [fact for piece in ORACLE.facts([answer])[0] for fact in piece]
    verdicts = ORACLE.verify([(answer.prompt, fact) for fact in found])
    assert [fact.kind for fact in found] == [one.statement.claim.type for one in whole]
    assert [verdict.said for verdict in verdicts] == [{True: "yes", False: "no", None: "moot"}[o.true] for o in whole]


@pytest.mark.parametrize(
    "claim",
    [
        Claim("existence", count=1),
        Claim("existence", count=4),
        Claim("existence", (Mention("cross"),)),
        Claim("attribute", (Mention("cross", "red"),)),
        Claim("relation", (Mention("cross", "red"), Mention("circle")), "above"),
    ],
)
def test_a_claim_reads_back(claim):
    assert [one.claim for one in statements(said(claim)) if one.claim.type == claim.type] == [claim]


def test_pictures_without_a_scene_are_looked_at(tmp_path):
    pixels = render.pixels([SCENE])[0]
    levels = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "a.png")
    facts = [Fact("attribute", "The circle is red."), Fact("relation", "The circle is right of the square.")]
    for picture in (pixels, tmp_path / "a.png"):
        prompt = Prompt("?", images=(picture,))
        assert [one.said for one in ORACLE.verify([(prompt, fact) for fact in facts])] == ["yes", "no"]


def test_what_it_cannot_tell_it_does_not_judge():
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    known, unknown = Prompt("?", {"scene": SCENE}), Prompt("?", images=(noise,))
    dog, circle = Fact("existence", "There is a dog."), Fact("existence", "There is a circle.")
    other = Fact("relation", "There is a circle.")  # a statement, but of another kind
    asked = [(known, dog), (known, circle), (known, other), (unknown, circle)]
    assert [one.said for one in ORACLE.verify(asked)] == ["none", "yes", "none", "none"]


@pytest.mark.parametrize(("images", "message"), [((), "shows 0"), (("nowhere.png",), "nowhere.png")])
def test_a_prompt_without_a_picture_is_named(images, message):
    with pytest.raises(UserError, match=message):
        ORACLE.verify([(Prompt("look", images=images), Fact("existence", "There is a circle."))])
