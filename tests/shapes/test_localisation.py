"""Where things are: the sample is the box of the thing that is asked for, and the reward finds it right."""

import pytest

from mmalign.records import Samples
from mmalign_lvlm.rewards import boxes
from mmalign_lvlm.rewards.verifiable import BoxOverlap
from mmalign_shapes.localisation import ShapesLocalisation, edges


@pytest.mark.parametrize("grid", [8, 64])
def test_the_sample_is_the_box_of_what_is_asked_for(grid):
    rows = ShapesLocalisation(size=30, grid=grid)
    for row in (rows[i] for i in range(30)):
        asked = row["prompt"].text.removeprefix("Where is the ").removesuffix("?")
        (thing,) = [one for one in row["prompt"].metadata["scene"].things if str(one.kind) == asked]
        (true,) = row["prompt"].metadata["boxes"]
        assert true == pytest.approx([grid * edge / 64 for edge in edges(thing)], abs=0.5)
        assert [list(one.box) for one in boxes.said(row["sample"])] == [true]


def test_the_right_answer_earns_all_and_a_rough_one_less():
    right, rough = (ShapesLocalisation(size=40, grid=64, jitter=jitter) for jitter in (0, 4))
    prompts = [right[i]["prompt"] for i in range(40)]
    assert [rough[i]["prompt"].text for i in range(40)] == [prompt.text for prompt in prompts]
    scores = [
        BoxOverlap(matched=False)(Samples(prompts, [rows[i]["sample"] for i in range(40)])).values
        for rows in (right, rough)
    ]
    assert scores[0].tolist() == [1.0] * 40
    assert 0.4 < scores[1].mean() < 0.85
