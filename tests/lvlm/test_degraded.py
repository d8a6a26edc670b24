"""Pictures shown worse: a crop keeps size and little else, noise of step 1 changes hardly anything, rows are repeatable; and what
a model makes of them, which `povid` rejects.
"""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import here
from PIL import Image

from mmalign.errors import UserError
from mmalign.processes.tokens import Sampling, TokensPolicy
from mmalign.records import Prompt
from mmalign_lvlm import pictures
from mmalign_lvlm.degraded import DegradedPairs, cropped, noised

from .conftest import build, perturbed


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


def test_what_is_misread_is_what_the_model_says_of_the_worse_picture(llava, picture_files, tmp_path):
    Image.effect_noise((40, 24), 200).save(tmp_path / "noise.png")
    policy = TokensPolicy(perturbed(build(llava)), Sampling())
    clean, worse = (Prompt("what is this", images=(file,)) for file in (picture_files[0], tmp_path / "noise.png"))
    rows = policy.encode([clean], ["a red circle and no square"], torch.Generator())
    found = {}
    for name, prompt in (("clean", clean), ("worse", worse)):
        shown = policy.encode([prompt], ["a red circle and no square"], torch.Generator())
        with torch.no_grad():
            logits = policy.model.base(**shown.inputs).logits[0, :-1]
        found[name] = policy.misread(rows, shown).ids[rows.mask.bool()]
        assert found[name].equal(logits.argmax(-1)[rows.mask[0, 1:].bool()])
    assert not found["clean"].equal(found["worse"])


CONFIG = """
name: small
folder: {folder}/runs
model: {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data: {{type: degraded-pairs, path: {file}, how: noise}}
objective: {{type: povid, beta: 0.5}}
trainer: {{steps: 3, batch_size: 2, learning_rate: 1.0e-2, gradient_checkpointing: true}}
"""


def test_povid_trains_through_the_command_line(llava, file, tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path, llava=llava, file=file))
    done = here("train", tmp_path / "small.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "runs/small/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < losses[0]
