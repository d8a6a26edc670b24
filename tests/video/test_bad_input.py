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

from .conftest import silent
from .test_videos import clip, resized, written

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


def changing(path: Path) -> None:
    resized(path.with_suffix(".mpg")).rename(path)


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unreadable": (unreadable, "cannot read video"),
    "truncated": (truncated, "replace the file or remove its row"),
    "without frames": (without_frames, "replace the file or remove its row"),
    "empty": (empty, "empty file"),
    "missing": (missing, "no such file"),
    "changing": (changing, "changes its size (48x32, then 64x48): replace the file or remove its row"),
    "only sound": (silent, "holds only sound: replace the file or remove its row"),
}
IN_A_RUN: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{name: wrong for name, wrong in WRONG.items() if name not in ("missing", "empty")},
    "missing": (missing, "no such video"),
    "empty": (empty, "cannot read video"),
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


def named(wrong: Any, folder: Path, *command: Any) -> str:
    """What is said where bad.mp4 is so wrong: the file and what is wrong with it are told."""
    make, told = wrong
    make(folder / "bad.mp4")
    said = refused(*command)
    assert told in said
    assert "bad.mp4" in said
    return said


@pytest.mark.parametrize("name", WRONG)
def test_the_check_names_row_column_and_remedy(name: str, config: Path, tmp_path: Path) -> None:
    said = named(WRONG[name], tmp_path, "data", "check", tmp_path / "pairs.jsonl")
    assert "row 1, column rejected: " in said


@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_run_names_the_video_and_the_remedy(name: str, config: Path, tmp_path: Path) -> None:
    named(IN_A_RUN[name], tmp_path, "train", config)


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


def test_videos_of_any_size_and_shape_are_brought_to_the_model_s(config: Path, tmp_path: Path) -> None:
    """Odd sides, on which no stride goes, are no fault of data."""
    written(tmp_path / "bad.mp4", TIMES, "mpeg4", clip(9, 34, 50))
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("label", ["C", "22", "a"])
def test_the_check_names_a_vote_out_of_range(label: str, config: Path, tmp_path: Path) -> None:
    written(tmp_path / "bad.mp4", TIMES, "mpeg4", clip().flip(0))
    head = "prompt,path_A,path_B,VQ,MQ,TA\n"
    (tmp_path / "votes.csv").write_text(f"{head}a wall,good.mp4,bad.mp4,A,{label},same\n")
    said = refused("data", "check", tmp_path / "votes.csv", "--preset", "videoalign")
    assert f"row 1, column MQ: label out of range: '{label}', not one of A, B, same, tie, invalid" in said


# ---- what rates videos

JUDGE = """
name: judge
folder: {folder}/runs
model: {{type: video-reward, path: {model}, frame_rate: null, max_pixels: 256, adapter: {{rank: 2}}}}
data: {{type: preferences, path: {folder}/votes.csv, preset: videoalign}}
objective: btt
trainer: {{steps: 1, batch_size: 1}}
"""


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """A run on votes for good.mp4 against bad.mp4, which is not there yet; one of them is invalid."""
    written(tmp_path / "good.mp4", TIMES, "mpeg4")
    (tmp_path / "votes.csv").write_text("prompt,path_A,path_B,VQ,MQ,TA\na wall,good.mp4,bad.mp4,A,invalid,same\n")
    (tmp_path / "judge.yaml").write_text(JUDGE.format(folder=tmp_path, model=tiny.save_judge(tmp_path / "qwen")))
    return tmp_path / "judge.yaml"


@pytest.mark.parametrize("name", [name for name in IN_A_RUN if name != "shorter than the model's"])
def test_what_learns_to_rate_names_the_video_and_the_remedy(name: str, judge: Path, tmp_path: Path) -> None:
    named(IN_A_RUN[name], tmp_path, "train", judge)


def test_what_learns_to_rate_takes_pairs_of_two_lengths(judge: Path, tmp_path: Path) -> None:
    """And a vote that is invalid says nothing."""
    written(tmp_path / "bad.mp4", TIMES[:5], "mpeg4", clip(5))
    done = CliRunner().invoke(app, ["train", str(judge)])
    assert done.exit_code == 0, done.output
    step = json.loads((tmp_path / "runs" / "judge" / "metrics.jsonl").read_text().splitlines()[0])
    assert "accuracy/VQ" in step
    assert step.get("accuracy/MQ") is None


# ---- files that are scored


@pytest.mark.parametrize("name", WRONG)
def test_scoring_names_the_video_and_the_remedy(name: str, tmp_path: Path) -> None:
    make, told = WRONG[name]
    make(tmp_path / "bad.mp4")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"prompt": "a wall", "sample": "bad.mp4"}) + "\n")
    said = refused("score", tmp_path, "--reward", "video-oracle")
    assert "bad.mp4" in said
    assert (told if name != "empty" else "cannot read video") in said
