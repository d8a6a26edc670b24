"""Two rounds on a tiny random Stable Diffusion: own samples, DPO on them, and the second round starts from the first."""

from safetensors.torch import load_file
from typer.testing import CliRunner

from mmalign.cli import app

CONFIG = """
name: online
folder: {root}/runs
rounds: 2
model: {{type: diffusers, path: {model}, resolution: 16, lora: "${{previous.model}}", adapter: {{rank: 2}}}}
data: {{type: prompts, path: {root}/prompts.txt}}
rewards: [jpeg-size]
sampling: {{steps: 2, guidance_scale: 1.0}}
trainer: {{steps: 2, batch_size: 2, learning_rate: 1.0e-2, seed: "${{round}}"}}
stages:
  - name: dpo
    collect: {{samples_per_prompt: 2}}
    objective: {{type: diffusion-dpo, beta: 1}}
"""


def test_the_second_round_starts_from_the_first(folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    (tmp_path / "online.yaml").write_text(CONFIG.format(root=tmp_path, model=folder("sd")))
    outcome = CliRunner().invoke(app, ["train", str(tmp_path / "online.yaml")])
    assert outcome.exit_code == 0, outcome.output
    first, second = (
        load_file(tmp_path / f"runs/online/{n}-dpo/model/pytorch_lora_weights.safetensors") for n in (1, 2)
    )
    assert first.keys() == second.keys()
    for name, weight in first.items():
        side = 0 if ".lora_A." in name or ".lora.down." in name else 1
        assert second[name].shape[side] == 2 * weight.shape[side]
        assert second[name].narrow(side, 0, 2).equal(weight)
    assert (tmp_path / "runs/online/2-dpo/pairs/pairs.jsonl").is_file()
