"""A run that keeps its encodings is bitwise the run that does not, also when it is killed while it keeps them."""

import json
import signal

import pytest
import torch
from command_line import apart
from safetensors.torch import load_file

from mmalign_diffusion import pictures

CONFIG = """
name: {name}
folder: runs
model: {{type: diffusers, path: "mmalign_shapes:assets/sd", adapter: {{rank: 2, dropout: 0.1}}}}
data: {{type: pairs, path: pairs.jsonl{cache}}}
objective: {{type: diffusion-dpo, beta: 50, prompt_dropout: 0.4}}
sampling: {{steps: 2, guidance_scale: 2.0}}
evaluation:
  prompts: {{type: shapes-prompts, split: held-out, size: 2}}
  rewards: [oracle]
  data: {{type: pairs, path: pairs.jsonl}}
trainer: {{steps: 4, batch_size: 3, learning_rate: 1.0e-3, checkpoint_every: 2}}
{plugins}
"""

KILLER = """
import os, signal
from pathlib import Path
from mmalign.data import cache

replace = os.replace

def killing(source, target):
    if Path(target).suffix == ".safetensors" and len(list(Path("runs/.encodings").rglob("*.safetensors"))) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

if not Path("runs/.encodings").exists():
    cache.os.replace = killing
"""


@pytest.fixture
def config(tmp_path):
    """Writes a config beside five pairs of pictures, the first of which is masked."""
    torch.manual_seed(0)
    for i in range(10):
        pictures.to_image(torch.rand(3, 64, 64)).save(tmp_path / f"{i}.png")
    pictures.to_image(torch.ones(3, 64, 64).tril()).save(tmp_path / "mask.png")
    rows = [{"prompt": f"text {i}", "chosen": f"{i}.png", "rejected": f"{i + 5}.png"} for i in range(5)]
    rows[0]["chosen_mask"] = "mask.png"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "killer.py").write_text(KILLER)

    def write(name, cache="", plugins=""):
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIG.format(name=name, cache=cache, plugins=plugins), encoding="utf-8")
        return path

    return write


def test_kept_encodings_change_no_bit_also_after_a_kill_while_they_are_made(mmalign, config, tmp_path):
    plain = mmalign("train", config("plain"))
    assert plain.returncode == 0, plain.stderr
    killed = apart("train", config("kept", ", cache: true", "plugins: [./killer.py]"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = mmalign("train", config("kept", ", cache: true", "plugins: [./killer.py]"), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "encodings: 13 made" in resumed.stdout  # of "", 2 + 5 prompts and 10 pictures
    runs = tmp_path / "runs"
    for file in ("metrics.jsonl", "evaluation.json"):
        assert (runs / "kept" / file).read_bytes() == (runs / "plain" / file).read_bytes()
    expected, got = (load_file(runs / name / "model/pytorch_lora_weights.safetensors") for name in ("plain", "kept"))
    assert all(expected[name].equal(got[name]) for name in expected)


def test_a_model_without_encodings_says_so(mmalign, config):
    overrides = ["model={type: vlm, path: ./nowhere}", "data.type=text-pairs", "objective=dpo"]
    outcome = mmalign("plan", config("kept", ", cache: true"), *overrides)
    assert outcome.returncode == 2
    assert "data.cache: model 'vlm' has no encodings" in outcome.stderr
