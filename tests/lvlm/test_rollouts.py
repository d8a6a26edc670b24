"""Policy gradient through the command line: a killed run goes on in the middle of its buffer, and configs are checked."""

import json
import os
import signal
from pathlib import Path

import pytest
from command_line import apart
from command_line import here as mmalign
from safetensors.torch import load_file

from mmalign import UserError, plugins
from mmalign.compose import choose, resolved
from mmalign.config import load
from mmalign.plan import stages

CONFIG = """
name: {name}
folder: {folder}/runs
plugins: [./watcher.py]
model: {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data: {{type: text-prompts, path: {folder}/rows.jsonl}}
objective: {{type: {objective}}}
rewards:
  - {{type: regex, pattern: "red|blue|green", normalize: group}}
  - {{type: length, most: 6, slack: 4, weight: 0.5}}
rollouts: {{prompts: 2, samples_per_prompt: 4, epochs: 2, batch_size: 3}}
sampling: {{max_new_tokens: 6}}
trainer: {{steps: 6, batch_size: 4, learning_rate: 1.0e-2, checkpoint_every: 1}}
"""

WATCHER = """
import os, signal
from mmalign import hookimpl

@hookimpl
def mmalign_rollout(run, rollout, scores):
    with open(run.folder / "buffers.txt", "a") as file:
        file.write(f"{run.step} {len(rollout)} {sorted(scores.dimensions)}\\n")

@hookimpl(tryfirst=True)
def mmalign_step_end(run, step):
    if run.config.name == "killed" and step == 3 and not (run.folder / "killed").exists():
        (run.folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def written(llava: Path, picture_files: list[Path], tmp_path: Path):
    """Writes a config and what it names: name, objective -> path."""
    asked = ("what is this", "is this a red circle", "what is there")
    rows = [
        {"prompt": text, "images": [os.path.relpath(picture_files[i % 2], tmp_path)]} for i, text in enumerate(asked)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "watcher.py").write_text(WATCHER)

    def write(name: str = "small", objective: str = "grpo") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIG.format(name=name, folder=tmp_path, llava=llava, objective=objective))
        return path

    return write


def test_killed_in_the_middle_of_a_buffer_and_resumed_equals_uninterrupted(written, tmp_path: Path) -> None:
    whole = mmalign("train", written("whole"))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert apart("train", written("killed")).returncode == -signal.SIGKILL
    resumed = mmalign("train", written("killed"), "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr

    runs = tmp_path / "runs"
    assert (runs / "killed/metrics.jsonl").read_bytes() == (runs / "whole/metrics.jsonl").read_bytes()
    expected, got = (load_file(runs / name / "model" / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(expected[name].equal(got[name]) for name in expected)
    # A buffer of 8 samples lasts for two passes of two batches; the one that was kept is not made again.
    buffers = ["0 8 ['length', 'regex']", "4 8 ['length', 'regex']"]
    assert (runs / "whole/buffers.txt").read_text().splitlines() == buffers
    assert (runs / "killed/buffers.txt").read_text().splitlines() == buffers
    rows = [json.loads(line) for line in (runs / "whole/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ratio"] == pytest.approx(1, abs=1e-5)
    assert rows[0]["clip_fraction"] == 0
    assert {"reward/mean", "reward/regex", "shaped/length", "rollout/units"} <= set(rows[4]) - set(rows[5])
    assert all(row["skipped"] == 0 for row in rows)


def test_ppo_runs_with_a_critic(written, tmp_path: Path) -> None:
    done = mmalign("train", written(objective="ppo"), "trainer.steps=2", "trainer.precision=bf16")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert all(row["skipped"] == 0 and row["value_loss"] > 0 for row in rows)
    # The critic is not part of the result.
    assert not [name for name in load_file(tmp_path / "runs/small/model/adapter_model.safetensors") if "critic" in name]


FAULTS = {
    "a reward is missing": ({}, ["rewards=[]"], "'grpo' needs a reward"),
    "a group of one": ({}, ["rollouts.samples_per_prompt=1"], "compares the samples of a prompt: set 2 or more"),
    "no even batches": ({}, ["trainer.batch_size=3"], "3 does not divide the 8 samples of a buffer"),
    "not on rollouts": ({"objective": "sft"}, [], "'sft' trains on rows, not on rollouts"),
    "nowhere to normalise": ({"objective": "sft"}, [], "has no buffer to normalise in"),
    "no second pass": ({"objective": "reinforce"}, [], "'reinforce' has no ratio"),
    "nothing to divide by": ({"objective": "remax"}, ["rollouts.samples_per_prompt=1"], "a group of one sample"),
    "a negative weight": ({}, ["objective.beta=-0.1"], "must be at least 0"),
    "no length": ({"objective": "dr-grpo"}, [], "objective.length: missing"),
    "no noise": ({}, ["rollouts.shared_noise=true"], "model 'vlm' begins with no noise"),
    "no buffer": ({}, ["rollouts.prompts=0"], "rollouts.prompts: must be at least 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_is_said(name: str, written) -> None:
    given, overrides, told = FAULTS[name]
    with pytest.raises(UserError, match=told):
        choose(load(written(**given), overrides, tolerant=True), plugins.load())


def test_buffers_have_their_defaults_where_the_objective_is_on_rollouts(written) -> None:
    document = load(written(), ["trainer.batch_size=8"])
    chosen = choose(document, plugins.load())
    plain = resolved(chosen)
    assert plain["rollouts"]["batch_size"] == 3
    assert plain["rollouts"]["history"] == 0
    found = {stage.name.strip(): stage for stage in stages(chosen)}
    assert "2 prompts x 4 samples" in found["rollouts"].what
    assert found["advantages"].where.startswith("mmalign/objectives/grpo.py")
