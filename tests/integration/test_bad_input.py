"""Each mistake gives one message with the thing, the place and the remedy; exit code 2, no traceback, nothing written."""

import json

import pytest

CASES = {
    "misspelt key": (["trainer.lerning_rate=1"], ["lerning_rate", "learning_rate"]),
    "wrong type": (["trainer.steps=abc"], ["trainer.steps", "whole number", "abc"]),
    "unknown component": (["objective=alinprop"], ["alinprop", "alignprop"]),
    "missing file of prompts": (["evaluation.prompts=nowhere.txt"], ["nowhere.txt", "no such file"]),
    "missing model": (["model.path=./nowhere"], ["./nowhere", "no such folder"]),
    "hub id while offline": (["model.path=nobody/nothing"], ["nobody/nothing"]),
    "reward without gradient": (["rewards=[oracle]"], ["oracle", "differentiable"]),
    "data without pairs": (["objective=dpo"], ["dpo", "chosen"]),
    "no reward": (["rewards=[]"], ["draft", "rewards"]),
    "prompts that are not there": (["evaluation.prompts.size=999999"], ["evaluation.prompts", "size", "999999"]),
    "missing package": (["model.path=mmalign_nothing:assets/sd"], ["pip install mmalign-nothing"]),
}


@pytest.mark.parametrize(("overrides", "words"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_one_message(mmalign, config, tmp_path, overrides, words):
    outcome = mmalign("train", config(), *overrides)
    assert outcome.returncode == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in outcome.stderr
    assert not (tmp_path / "runs/small").exists()


def test_an_empty_prompt_file_is_named(mmalign, config, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    outcome = mmalign("train", config(), "evaluation.prompts=empty.txt")
    assert outcome.returncode == 2
    assert "empty.txt" in outcome.stderr


def test_every_fault_is_told_at_once(mmalign, config):
    outcome = mmalign("train", config(), "trainer.steps=0", "objective=alinprop", "sampling.stps=3")
    assert outcome.returncode == 2
    assert all(word in outcome.stderr for word in ("trainer.steps", "alinprop", "stps"))


def test_an_unreadable_picture_is_named(mmalign, config, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a red circle", "chosen": "a.png", "rejected": "a.png"}\n')
    path = tmp_path / "pairs.jsonl"
    outcome = mmalign("train", config(), f"data={{type: pairs, path: {path}}}", "objective=dpo")
    assert outcome.returncode == 2
    assert "a.png" in outcome.stderr
    assert "Traceback" not in outcome.stderr


NAN = '''
import torch
from mmalign import RewardSpec, hookimpl

class Failing:
    """Brightness, and not a number from the fourth call on."""

    def __init__(self):
        self.calls = 0

    def __call__(self, samples):
        self.calls += 1
        return samples.media.mean(dim=(1, 2, 3)) * (torch.nan if self.calls > 3 else 1.0)

@hookimpl
def mmalign_rewards():
    yield RewardSpec("failing", Failing, differentiable=True)
'''


def test_five_non_finite_steps_stop_the_run_and_keep_the_last_good_checkpoint(mmalign, config, tmp_path):
    (tmp_path / "failing.py").write_text(NAN)
    outcome = mmalign("train", config(extra="plugins: [./failing.py]\n"), "rewards=[failing]", "trainer.steps=20")
    assert outcome.returncode == 1
    assert "not finite" in outcome.stderr
    assert "step-000002" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0.0] * 3 + [1.0] * 5
    assert [path.name for path in (tmp_path / "runs/small/checkpoints").glob("step-*")] == ["step-000002"]
