"""Real runs through the command line: the objectives of every other model train a language model."""

import json
import math
import os
from pathlib import Path

import pytest
from command_line import here
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

CONFIG = """
name: small
folder: {folder}/runs
plugins: [./words.py]
model: {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data: {{type: {data}, path: {folder}/rows.jsonl}}
objective: {{type: {objective}}}
sampling: {{max_new_tokens: 6}}
evaluation: {{prompts: {{type: text-prompts, path: {folder}/rows.jsonl}}, rewards: [words]}}
trainer: {{steps: 3, batch_size: 2, learning_rate: 1.0e-2, checkpoint_every: 2, gradient_checkpointing: true}}
"""

REWARD = """
import torch
from mmalign import RewardSpec, hookimpl

def words():
    \"\"\"How many words an answer has.\"\"\"
    return lambda samples: torch.tensor([float(len(text.split())) for text in samples.responses])

@hookimpl
def mmalign_rewards():
    yield RewardSpec("words", words)
"""

ROWS = [("what is this", "a red circle", "no"), ("is this a red circle", "yes", "there is a blue square and no")] * 2


def mmalign(*arguments: str | Path) -> str:
    done = here(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_a_run(objective: str, llava: Path, picture_files: list[Path], tmp_path: Path) -> None:
    columns = {"dpo": ("chosen", "rejected"), "sft": ("completion", "worse")}[objective]
    rows = [
        {
            "prompt": asked,
            "images": [os.path.relpath(picture_files[i % 2], tmp_path)],
            **dict(zip(columns, said, strict=True)),
        }
        for i, (asked, *said) in enumerate(ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.py").write_text(REWARD)
    data = {"dpo": "text-pairs", "sft": "text-samples"}[objective]
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, llava=llava, data=data, objective=objective))

    mmalign("train", config)
    run = tmp_path / "runs" / "small"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) and row["skipped"] == 0 for row in metrics)
    if objective == "dpo":
        assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert metrics[-1]["loss"] < math.log(2) - 1e-3
    else:
        assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert json.loads((run / "evaluation.json").read_text())["rewards"]["words"]["n"] == 4
    shown = [json.loads(line) for line in (run / "samples" / "step-000003" / "samples.jsonl").read_text().splitlines()]
    assert (run / "samples" / "step-000003" / shown[0]["sample"]).is_file()
    PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(llava), run / "model")


def test_a_run_on_its_own_best_samples(llava: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """SuperHF: answers are sampled, scored, and the best of each prompt is learned from, near the reference."""
    shown = [os.path.relpath(path, tmp_path) for path in picture_files]
    rows = [{"prompt": asked, "images": [shown[i % 2]]} for i, (asked, *_) in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.py").write_text(REWARD)
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, llava=llava, data="text-prompts", objective="superhf"))

    mmalign("train", config, "collect={samples_per_prompt: 3, keep: best}", "rewards=[words]")
    run = tmp_path / "runs" / "small"
    kept = [json.loads(line) for line in (run / "best" / "best.jsonl").read_text().splitlines()]
    assert [row["row"] for row in kept] == [0, 1, 2, 3]
    for row in kept:
        said = [path.read_text() for path in sorted((run / "best" / f"{row['row']:05d}").glob("*.txt"))]
        assert row["score"] == max(len(text.split()) for text in said)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert metrics[-1]["kl"] > 1e-4
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_what_guidance_does_alone_and_after_training(llava: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """The best of several has more words than the model's own; trained or not, it is compared with the untouched model."""
    shown = [os.path.relpath(path, tmp_path) for path in picture_files]
    rows = [{"prompt": asked, "images": [shown[i % 2]], "completion": "no"} for i, (asked, *_) in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.py").write_text(REWARD)
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, llava=llava, data="text-samples", objective="sft"))
    guidance = "evaluation.guidance={type: best-of-n, n: 6, rewards: [words]}"

    mmalign("train", config, guidance, "trainer.steps=0", "name=alone")
    mmalign("train", config, guidance, "trainer.learning_rate=1.0e-9", "name=trained")
    runs = tmp_path / "runs"
    found = {
        name: json.loads((runs / name / "evaluation.json").read_text())["rewards"]["words"]
        for name in ("alone", "trained")
    }
    assert found["alone"]["role"] == "trained"
    assert found["alone"]["after"]["mean"] > found["alone"]["before"]["mean"]
    assert found["alone"] == found["trained"]
    samples = {path.parent.name for path in (runs / "alone" / "samples").glob("*/samples.jsonl")}
    assert samples == {"step-000000", "guided"}
    evaluated = json.loads(mmalign("evaluate", runs / "alone", "--json"))["words"]
    assert evaluated["mean"] == found["alone"]["after"]["mean"]
