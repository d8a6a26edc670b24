"""Rounds in which a tiny LLaVA judges its own answers, through the command line: what is judged by whom, and how far trusted."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from mmalign.cli import app

from .conftest import build, perturbed

CONFIG = """
name: self
folder: {root}/runs
rounds: 2
model: {{type: vlm, path: "${{previous.model|{seed}}}", adapter: null}}
data: {{type: text-prompts, path: {root}/rows.jsonl}}
rewards:
  - type: implicit
    name: now
    model: {{type: vlm, path: "${{previous.model|{seed}}}"}}
    reference: {{type: vlm, path: {base}}}
  - type: implicit
    name: before
    weight: 0
    model: {{type: vlm, path: "${{previous.previous.model|{seed}}}"}}
    reference: {{type: vlm, path: {base}}}
sampling: {{max_new_tokens: 5}}
trainer: {{steps: 2, batch_size: 2, learning_rate: 1.0e-2, seed: "${{round}}"}}
stages:
  - name: judge-and-learn
    collect: {{samples_per_prompt: 4, consistency: before}}
    objective: cream
"""


@pytest.fixture
def seed(llava: Path, tmp_path: Path) -> Path:
    """A model that was taught something."""
    made = perturbed(build(llava, adapter=None))
    made.save(tmp_path / "seed")
    return tmp_path / "seed"


def test_a_model_learns_from_its_own_judgement_round_after_round(llava: Path, seed: Path, tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("what is this", "is there a red circle", "what is there")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "self.yaml").write_text(CONFIG.format(root=tmp_path, base=llava, seed=seed))
    outcome = CliRunner().invoke(app, ["train", str(tmp_path / "self.yaml")])
    assert outcome.exit_code == 0, outcome.output
    folders = [tmp_path / f"runs/self/{n}-judge-and-learn" for n in (1, 2)]
    first, second = (
        [json.loads(line) for line in (folder / "pairs/pairs.jsonl").read_text().splitlines()] for folder in folders
    )
    # In the first round both judges are the seed, later they are the results of two rounds.
    assert {row["consistency"] for row in first} == {1.0}
    assert any(row["consistency"] < 1 for row in second)
    assert all(row["scores"][0] > row["scores"][1] for row in [*first, *second])
    metrics = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_text().splitlines()]
    assert all(row["skipped"] == 0 and 0 <= row["consistency"] <= 1 for row in metrics)
    # The reference of a round is the model of the one before: at its first step nothing has moved.
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    weights = [load_file(folder / "model/model.safetensors") for folder in folders]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
