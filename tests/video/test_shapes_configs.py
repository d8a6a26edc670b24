"""The configs on moving shapes, run through the command line as they are, but small and on a tiny pipeline."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmalign.cli import app

ROOT = Path(__file__).parents[2]
BRIGHTNESS = '''
from mmalign import RewardSpec, hookimpl

def brightness():
    """How bright a video is: never a tie."""
    return lambda samples: samples.media.mean(dim=(1, 2, 3, 4))

@hookimpl
def mmalign_rewards():
    yield RewardSpec("brightness", brightness)
'''
SMALL = [
    "model.adapter.rank=2",
    "data.size=2",
    "sampling.steps=3",
    "rewards=[brightness]",
    "evaluation.prompts.size=1",
    "trainer.steps=1",
    "trainer.batch_size=2",
]
OWN = {
    "flow-dpo": ["collect.samples_per_prompt=2", "collect.least_gap=0", "objective.schedule=(1-t)^2"],
    "flow-rwr": ["collect.samples_per_prompt=2"],
    "flow-grpo": ["rollouts.prompts=1", "rollouts.samples_per_prompt=2", "sampling.steps=4"],
}


@pytest.mark.parametrize("name", OWN)
def test_it_trains_and_every_dimension_is_judged(name: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(BRIGHTNESS)
    config = tmp_path / f"{name}.yaml"
    config.write_text((ROOT / f"configs/shapes/{name}.yaml").read_text() + "plugins: [./brightness.py]\n")
    given = [*SMALL, *OWN[name], f"model.path={folder('wan')}", f"folder={tmp_path}", "name=small"]
    done = CliRunner().invoke(app, ["train", str(config), *given])
    assert done.exit_code == 0, done.output
    run = tmp_path / "small"
    judged = json.loads((run / "evaluation.json").read_text())["rewards"]
    assert judged.keys() == {"VQ", "MQ", "TA"}
    assert all(one["role"] == "held-out" and 0 <= one["win_rate"] <= 1 for one in judged.values())
    (step,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert step["grad_norm"] > 0
    assert (run / "model").is_dir()
    assert len(list(run.glob("samples/**/*.mp4"))) >= 2
