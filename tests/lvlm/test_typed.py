"""FGAIF through the command line on a tiny LLaVA: three typed reward models from labelled segments, then PPO on all of them."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign_lvlm.segments import split
from mmalign_shapes.images import ShapesFeedback
from mmalign_shapes.pretrain import captioner
from mmalign_shapes.scenes import SIZE

KINDS = ("existence", "attribute", "relation")

CONFIG = """
name: fgaif
folder: {folder}/runs
model: {{type: vlm-reward, path: "${{stages.sft.model}}", adapter: {{rank: 4}}}}
data: {{type: shapes-feedback, size: 24}}
objective: {{type: segment-classification}}
evaluation: {{data: {{type: shapes-feedback, split: held-out, size: 8}}}}
trainer: {{steps: 6, batch_size: 4, learning_rate: 5.0e-3}}
stages:
  - name: sft
    model: {{type: vlm, path: {llava}, adapter: null}}
    data: {{type: shapes-captions, size: 64}}
    objective: {{type: sft}}
    evaluation: {{data: null}}
    trainer: {{steps: 40, batch_size: 8}}
  - {{name: existence, model: {{heads: {{names: [existence], classes: [absent, faithful, hallucinated]}}}}}}
  - {{name: attribute, model: {{heads: {{names: [attribute], classes: [absent, faithful, hallucinated]}}}}}}
  - {{name: relation, model: {{heads: {{names: [relation], classes: [absent, faithful, hallucinated]}}}}}}
  - name: dense
    model: {{type: vlm, path: "${{stages.sft.model}}", adapter: {{rank: 4}}}}
    data: {{type: shapes-images, size: 8}}
    objective: {{type: ppo, beta: 0.1}}
    evaluation: {{data: null}}
    rewards:
      - {{name: existence, type: segment-reward, path: "${{stages.existence.model}}", weight: 1.0}}
      - {{name: attribute, type: segment-reward, path: "${{stages.attribute.model}}", weight: 0.5}}
      - {{name: relation, type: segment-reward, path: "${{stages.relation.model}}", weight: 0.25}}
    rollouts: {{prompts: 4, samples_per_prompt: 1, epochs: 1, batch_size: 4}}
    sampling: {{max_new_tokens: 24}}
    trainer: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3}}
  - name: whole
    model: {{type: vlm, path: "${{stages.sft.model}}", adapter: {{rank: 4}}}}
    data: {{type: shapes-images, size: 8}}
    objective: {{type: ppo, beta: 0.1}}
    evaluation: {{data: null}}
    rewards:
      - {{name: existence, type: segment-reward, path: "${{stages.existence.model}}", weight: 1.0, dense: false}}
      - {{name: attribute, type: segment-reward, path: "${{stages.attribute.model}}", weight: 0.5, dense: false}}
      - {{name: relation, type: segment-reward, path: "${{stages.relation.model}}", weight: 0.25, dense: false}}
    rollouts: {{prompts: 4, samples_per_prompt: 1, epochs: 1, batch_size: 4}}
    sampling: {{max_new_tokens: 24}}
    trainer: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3}}
"""


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights that knows the words of the shapes world."""
    folder, processor = tmp_path_factory.mktemp("blank"), captioner.new_processor()
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = processor.tokenizer
    language = LlamaConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=192)
    language.update({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=SIZE, patch_size=captioner.PATCH, projection_dim=32),
        text_config=language,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, run."""
    folder = tmp_path_factory.mktemp("fgaif")
    (folder / "fgaif.yaml").write_text(CONFIG.format(folder=folder, llava=blank))
    done = CliRunner().invoke(app, ["train", str(folder / "fgaif.yaml")])
    assert done.exit_code == 0, done.output
    return folder / "runs" / "fgaif"


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_oracle_labels_are_of_the_segments_that_rewards_read() -> None:
    rows = ShapesFeedback(size=20, share=0.5)
    for row in (rows[i] for i in range(len(rows))):
        assert [(one.start, one.end) for one in row["segments"]] == split(row["sample"])
    labels = [label for i in range(20) for one in rows[i]["segments"] for label in one.labels.items()]
    assert set(labels) == {(kind, label) for kind in KINDS for label in ("absent", "faithful", "hallucinated")}


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_tell_the_balanced_accuracy_of_each_typed_model(runs: Path, kind: str) -> None:
    run = runs / f"1-{kind}"
    found = json.loads((run / "evaluation.json").read_text())["held_out"]
    assert (found["n"], found["step"]) == (8, 6)
    assert found["metrics"]["loss"]["after"] < found["metrics"]["loss"]["before"]
    recalls = [found["metrics"][f"recall/{kind}/{name}"]["after"] for name in ("absent", "faithful", "hallucinated")]
    assert found["metrics"][f"balanced_accuracy/{kind}"]["after"] == pytest.approx(sum(recalls) / 3)
    page = (run / "report.html").read_text()
    assert "Held-out rows" in page
    assert f"balanced_accuracy/{kind}" in page


def test_ppo_earns_every_type_at_its_weight(runs: Path) -> None:
    for metrics in lines(runs / "1-dense" / "metrics.jsonl"):
        parts = [weight * metrics[f"reward/{kind}"] for kind, weight in zip(KINDS, (1.0, 0.5, 0.25), strict=True)]
        assert metrics["reward/mean"] == pytest.approx(sum(parts), abs=1e-5)
        assert metrics["rollout/unscored"] == 0
        assert metrics["skipped"] == 0


def test_the_same_reward_of_the_whole_answer_is_learned_from_differently(runs: Path) -> None:
    dense, whole = (lines(runs / f"1-{name}" / "metrics.jsonl")[0] for name in ("dense", "whole"))
    assert dense["reward/mean"] == whole["reward/mean"] != 0
    assert dense["rollout/units"] == whole["rollout/units"]
    assert dense["loss"] != pytest.approx(whole["loss"], rel=1e-3)
