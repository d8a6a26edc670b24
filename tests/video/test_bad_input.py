"""Videos, pairs and settings that cannot be used: one sentence through the command line, exit code 2, no traceback."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign_video import tiny

from .test_videos import clip, written

CONFIG = """
name: small
folder: {folder}/runs
model: {{type: diffusers-video, path: {model}, height: {side}, width: {side}, frames: 9, frame_rate: 10.0, adapter: {{rank: 2}}}}
data: {{type: pairs, path: {folder}/pairs.jsonl}}
objective: {{type: flow-dpo}}
trainer: {{steps: 1, batch_size: 1}}
"""
TIMES = range(0, 900, 100)
OVERRIDE = {
    "height": (["model.height=36"], "model.height: 36 is not a multiple of 8, as this model needs: take 32 or 40"),
    "frames": (
        ["model.frames=8"],
        "model.frames: 8 is not 1 more than a multiple of 4, as this model needs: take 5 or 9",
    ),
    "sampler": (["sampling.sde=ddim"], "sampling.sde: 'ddim' is not for this model"),
}


def unreadable(path: Path) -> None:
    path.write_text("no video at all")


def truncated(path: Path) -> None:
    noise = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    whole = written(path, TIMES, "mpeg4", noise, movflags="faststart").read_bytes()
    path.write_bytes(whole[: int(0.6 * len(whole))])


def without_frames(path: Path) -> None:
    made = written(path.with_suffix(".mkv"), [], frames=torch.empty(0, 3, 32, 32))
    made.rename(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    return None


def too_short(path: Path) -> None:
    written(path, TIMES[:5], "mpeg4", clip(5))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable": (unreadable, "cannot read video"),
    "truncated": (truncated, "replace the file or remove its row"),
    "without frames": (without_frames, "replace the file or remove its row"),
    "empty": (empty, "empty file"),
    "missing": (missing, "no such file"),
}
IN_A_RUN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncated, "replace the file or remove its row"),
    "shorter than the model's": (too_short, "has 5 frames at 10 a second, but the model needs 9: remove its row"),
}


@pytest.fixture
def config(folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run on one pair, good.mp4 and bad.mp4, of which the second is not there yet."""
    written(tmp_path / "good.mp4", TIMES, "mpeg4")
    row = {"prompt": "a grey wall", "chosen": "good.mp4", "rejected": "bad.mp4"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path, model=folder("wan"), side=tiny.SIDE))
    return tmp_path / "small.yaml"


def refused(*arguments: str | Path) -> str:
    """What the command line says where it ends with 2."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert not isinstance(done.exception, Exception)
    return " ".join(done.output.split())


@pytest.mark.parametrize("name", WRONG)
def test_the_check_names_row_column_and_remedy(name: str, config: Path, tmp_path: Path) -> None:
    make, told = WRONG[name]
    make(tmp_path / "bad.mp4")
    said = refused("data", "check", tmp_path / "pairs.jsonl")
    assert "row 1, column rejected: " in said
    assert told in said
    assert "bad.mp4" in said


def test_the_check_refuses_a_file_with_only_sound(config: Path, sound: Path, tmp_path: Path) -> None:
    sound.rename(tmp_path / "bad.mp4")
    assert "bad.mp4 holds only sound: replace the file" in refused("data", "check", tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_run_names_the_video_and_the_remedy(name: str, config: Path, tmp_path: Path) -> None:
    make, told = IN_A_RUN[name]
    make(tmp_path / "bad.mp4")
    said = refused("train", config)
    assert told in said
    assert "bad.mp4" in said


@pytest.mark.parametrize("name", OVERRIDE)
def test_settings_that_do_not_fit_the_model_are_named(name: str, config: Path) -> None:
    overrides, told = OVERRIDE[name]
    assert told in refused("train", config, *overrides)


@pytest.mark.parametrize("label", ["C", "22"])
def test_a_vote_out_of_range_is_named_with_row_and_column(label: str, config: Path, tmp_path: Path) -> None:
    rows = [["prompt", "path_A", "path_B", "VQ", "MQ", "TA"], ["a wall", "good.mp4", "good.mp4", "A", label, "same"]]
    with open(tmp_path / "votes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    data = f"data={{type: pairs, path: {tmp_path / 'votes.csv'}, preset: videoalign}}"
    said = refused("train", config, data)
    assert "row 1, column MQ: label out of range" in said


def checked(folder: Path, times: Sequence[int]) -> Any:
    """What `mmalign data check` says of good.mp4 beside a video whose frames are shown at `times`, in milliseconds."""
    written(folder / "bad.webm", times, frames=clip(len(times)).flip(-3))
    row = {"prompt": "a grey wall", "chosen": "good.mp4", "rejected": "bad.webm"}
    good = {"prompt": "a grey wall", "chosen": "good.mp4", "rejected": "other.mp4"}
    written(folder / "other.mp4", TIMES, "mpeg4", clip().flip(0))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (good, row)))
    return CliRunner().invoke(app, ["data", "check", str(folder / "pairs.jsonl")])


def test_different_lengths_in_a_pair_are_told_with_the_row(config: Path, tmp_path: Path) -> None:
    done = checked(tmp_path, TIMES[:5])
    assert done.exit_code == 2
    assert "row 2, column chosen, rejected: videos of 9 and 5 frames: cut them to one length" in " ".join(
        done.output.split()
    )
    assert "2 rows, 1 bad" in done.output


def test_a_frame_rate_that_varies_is_no_fault(config: Path, tmp_path: Path) -> None:
    """It is brought to the model's by its timestamps."""
    written(tmp_path / "bad.mp4", [0, 50, 100, 250, 300, 450, 500, 650, 900], "mpeg4")
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output
