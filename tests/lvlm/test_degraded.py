"""Pictures shown worse: a crop keeps size and little else, noise of step 1 changes hardly anything, rows are repeatable."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.errors import UserError
from mmalign_lvlm import pictures
from mmalign_lvlm.degraded import DegradedPairs, cropped, noised


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two pairs about one picture, no piece of which is like another."""
    Image.effect_noise((40, 30), 80).save(tmp_path / "grey.png")
    rows = [
        {"prompt": "what", "images": ["grey.png"], "chosen": "red and blue", "rejected": said} for said in ("a", "b")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def test_rows_have_the_prompt_shown_worse_and_are_the_same_each_time(file):
    rows = DegradedPairs(str(file))
    first, again, other = rows[0], rows[0], rows[1]
    assert first["degraded"].text == first["prompt"].text
    assert first["chosen"] == "red and blue"
    shown = [row["degraded"].images[0] for row in (first, again, other)]
    assert shown[0].shape == (3, 30, 40)
    assert shown[0].equal(shown[1])
    assert not shown[0].equal(shown[2])
    assert not shown[0].equal(DegradedPairs(str(file), seed=1)[0]["degraded"].images[0])


def test_a_crop_is_a_piece_of_the_picture():
    columns = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    picture = Image.fromarray(np.stack([columns] * 3, axis=-1))
    for seed in range(20):
        found = np.asarray(cropped(picture, 0.01, 0.2, random.Random(seed)))
        assert found.shape == (100, 200, 3)
        assert np.ptp(found[50, :, 0].astype(int)) <= 200 * (0.2 * 4 / 3 / 2) ** 0.5 + 4


def test_noise_grows_with_its_step():
    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    spread = [np.asarray(noised(picture, step, random.Random(0))).std() for step in (1, 200, 1000)]
    assert spread[0] < 2
    assert spread[0] < spread[1] < spread[2]


def test_pixels_are_read_back_as_they_were():
    picture = Image.effect_noise((8, 6), 50).convert("RGB")
    assert np.array_equal(np.asarray(pictures.read(pictures.pixels(picture))), np.asarray(picture))


def test_what_cannot_be_shown_worse_is_named(file):
    rows = [json.loads(line) | {"images": []} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="row 2 shows no picture"):
        DegradedPairs(str(file))[1]
    with pytest.raises(UserError, match="more than most"):
        DegradedPairs(str(file), least=0.5)
