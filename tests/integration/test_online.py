"""Objectives on the model's own rollouts, on the shapes pipeline, through the command line."""

import json
from pathlib import Path

import pytest

SMALL = """
name: online
folder: {folder}
model: {{type: diffusers, path: "mmalign_shapes:assets/sd", adapter: {{rank: 4}}}}
data: {{type: shapes-prompts, split: train, size: 16}}
objective: {{type: {objective}}}
rewards: [jpeg-size]
sampling: {{steps: 3, guidance_scale: 2.0, eta: 1.0}}
rollouts: {{prompts: 2, samples_per_prompt: 2, epochs: 2}}
trainer: {{steps: 4, batch_size: 2, learning_rate: 1.0e-3}}
"""


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("objective", ["ddpo", "d3po", "prdp"])
def test_a_denoiser_learns_from_its_own_rollouts(mmalign, tmp_path, objective):
    (tmp_path / "online.yaml").write_text(SMALL.format(folder=tmp_path / "runs", objective=objective))
    done = mmalign("train", tmp_path / "online.yaml")
    assert done.returncode == 0, done.stderr
    metrics = rows(tmp_path / "runs/online/metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert all(row["skipped"] == 0 for row in metrics)
    assert metrics[0]["reward/mean"] != 0  # a buffer was made ...
    assert "reward/mean" not in metrics[1]  # ... and used again
    assert (tmp_path / "runs/online/model").is_dir()


def test_pairs_need_an_even_number_of_samples(mmalign, tmp_path):
    (tmp_path / "odd.yaml").write_text(SMALL.format(folder=tmp_path / "runs", objective="d3po"))
    refused = mmalign("train", tmp_path / "odd.yaml", "rollouts.samples_per_prompt=3")
    assert refused.returncode == 2
    assert "rollouts.samples_per_prompt" in refused.stderr
    assert "multiple" in refused.stderr


def test_samples_of_a_prompt_may_begin_with_the_same_noise(mmalign, tmp_path):
    """Then they hardly differ where steps hardly draw noise, however they are batched, and so do their rewards."""
    (tmp_path / "online.yaml").write_text(SMALL.format(folder=tmp_path / "runs", objective="grpo"))
    spread = {}
    for name, shared in (("shared", "true"), ("own", "false")):
        given = [f"name={name}", f"rollouts.shared_noise={shared}", "sampling.eta=0.001", "rollouts.batch_size=1"]
        done = mmalign("train", tmp_path / "online.yaml", *given, "rollouts.prompts=1", "rollouts.epochs=1")
        assert done.returncode == 0, done.stderr
        spread[name] = [row["reward/std"] for row in rows(tmp_path / "runs" / name / "metrics.jsonl")]
    assert all(one < 0.2 * other for one, other in zip(spread["shared"], spread["own"], strict=True))


def test_one_sample_shares_no_noise(mmalign, tmp_path):
    (tmp_path / "online.yaml").write_text(SMALL.format(folder=tmp_path / "runs", objective="ddpo"))
    refused = mmalign("train", tmp_path / "online.yaml", "rollouts.shared_noise=true", "rollouts.samples_per_prompt=1")
    assert refused.returncode == 2
    assert "rollouts.shared_noise: one sample a prompt has none to share with" in refused.stderr
