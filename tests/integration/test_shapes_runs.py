"""Real runs on the shapes world, through the command line, judged by held-out prompts. `make slow`; minutes each."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["quickstart.yaml", "shapes/diffusion-dpo.yaml"])
def test_diffusion_dpo_repairs_what_the_base_gets_wrong(mmalign, tmp_path, config):
    done = mmalign("train", str(ROOT / "configs" / config), "name=aligned", f"folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    oracle = json.loads((tmp_path / "aligned/evaluation.json").read_text())["rewards"]["oracle"]
    assert oracle["difference"]["mean"] >= 0.1
    assert oracle["difference"]["mean"] >= 3 * oracle["difference"]["se"]
    assert (tmp_path / "aligned/report.html").is_file()
