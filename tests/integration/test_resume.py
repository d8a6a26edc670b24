"""A run that is killed and resumed is bitwise the run that was not."""

import json
import signal
from pathlib import Path

from command_line import apart
from safetensors.torch import load_file

KILLER = """
import os, signal
from mmalign import hookimpl

@hookimpl(tryfirst=True)
def mmalign_step_end(run, step):
    if step == 5 and not (run.folder / "killed").exists():
        (run.folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def weights(folder: Path) -> dict:
    return load_file(next((folder / "model").glob("*.safetensors")))


def test_killed_and_resumed_equals_uninterrupted(mmalign, config, tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    whole = mmalign("train", config("whole"))
    assert whole.returncode == 0, whole.stderr
    killed = apart("train", config("killed", "plugins: [./killer.py]\n"))
    assert killed.returncode == -signal.SIGKILL
    resumed = mmalign("train", config("killed", "plugins: [./killer.py]\n"), "--resume")
    assert resumed.returncode == 0, resumed.stderr

    runs = tmp_path / "runs"
    assert (runs / "killed/metrics.jsonl").read_bytes() == (runs / "whole/metrics.jsonl").read_bytes()
    expected, got = weights(runs / "whole"), weights(runs / "killed")
    assert expected.keys() == got.keys()
    assert all(expected[name].equal(got[name]) for name in expected)
    steps = [json.loads(line)["step"] for line in (runs / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (runs / "killed/evaluation.json").read_bytes() == (runs / "whole/evaluation.json").read_bytes()


def test_a_folder_that_holds_a_run_is_left_alone(mmalign, config, tmp_path):
    assert mmalign("train", config(), "trainer.steps=1").returncode == 0
    before = (tmp_path / "runs/small/metrics.jsonl").read_bytes()
    again = mmalign("train", config(), "trainer.steps=1")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert "--resume" in again.stderr
    assert (tmp_path / "runs/small/metrics.jsonl").read_bytes() == before


def test_resuming_with_another_config_names_what_differs(mmalign, config):
    assert mmalign("train", config(), "trainer.steps=1").returncode == 0
    other = mmalign("train", config(), "trainer.learning_rate=1e-5", "--resume")
    assert other.returncode == 2
    assert "trainer.learning_rate" in other.stderr
