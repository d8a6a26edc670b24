"""Every recipe for real models, from its first stage to its last, on tiny models of the same architectures.

Nothing of a recipe is left out; its numbers are made small, and what cannot be had here is swapped: weights of judges and rewards
that are downloaded, data sets of the hub, the endpoint of a judge, and rewards by which all that a random model says is alike.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch
import yaml
from endpoint import Server

from . import world

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for kind in ("diffusion", "lvlm", "video") for path in (ROOT / "configs" / kind).glob("*.yaml"))

MOST = {
    "trainer": {"steps": 2, "batch_size": 2, "gradient_accumulation": 1, "checkpoint_every": 2, "warmup_steps": 1},
    "rollouts": {"prompts": 2, "samples_per_prompt": 2, "epochs": 1, "batch_size": 4},
    "collect": {"samples_per_prompt": 3, "batch_size": 4},
    "sampling": {"steps": 4, "max_new_tokens": 8, "window": 2},
    "model": {"height": 32, "width": 32, "frames": 9, "resolution": 32},
    "evaluation": {"count": 2, "every": 2, "batch_size": 2},
    "guidance": {"n": 2, "candidates": 1},
}
"""By section the largest numbers that are rehearsed."""

CLIP = {"type": "clip-score", "path": "mmalign_shapes:assets/clip"}
COLOURS = {"type": "colourfulness"}
CHANCE = {"type": "chance"}
SWAPS: Mapping[str, Mapping[str, Any]] = {
    "clip-score": CLIP,
    "aesthetic": COLOURS,
    "rejected-claims": CHANCE,
    "exact-answer": CHANCE,
}
PATHS = {
    "openbmb/RLHF-V-Dataset": "corrected.jsonl",
    "openbmb/RLAIF-V-Dataset": "corrected.jsonl",
    "yuvalkirstain/pickapic_v2": "pick-a-pic.jsonl",
    "runs/video-reward-qwen2vl/model": "runs/rating/model",
    "float16": "float32",  # which autocast on a CPU cannot mix with bfloat16
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "worldsimbench-qwen2vl": {
        "data.path": "ratings.jsonl",
        "evaluation.data.path": "ratings.jsonl",
        "model.path": "rating",
    },
    "video-reward-qwen2vl": {"model.path": "rating"},
    "scl-llava15": {"data.right": 0.5},
    "dreamsync-sdxl": {
        "rewards": "[{type: chance, gate: 0.2}, {type: colourfulness, weight: 0.01, gate: 1.0}]",
        "stages.0.collect.least_score": 0.3,
    },
}
"""What a recipe needs beside: other columns than those of the others, and what random models can reach."""

PLUGIN = """
import zlib
import torch
from mmalign import RewardSpec, hookimpl

class Chance:
    'Says of every text and every picture something else, in [0, 1].'
    def __call__(self, samples):
        told = [one if isinstance(one, str) else str(float(one.mean())) for one in samples.made]
        return torch.tensor([zlib.crc32(one.encode()) / 2**32 for one in told])

@hookimpl
def mmalign_rewards():
    yield RewardSpec("chance", Chance)
"""


FACTS = '{"objects": ["circle"], "attributes": [["circle", "red"]], "relations": []}'
"""What the endpoint lists of everything."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Server() as server:
        server.say = lambda body, number: FACTS
        yield server.url


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all recipes find what they name, and a reward of videos that one of them trained."""
    root = tmp_path_factory.mktemp("recipes")
    torch.set_num_threads(1)
    world.standing_in(root)
    world.data(root)
    (root / "chance.py").write_text(PLUGIN)
    return root


def small(document: Any, endpoint: str, section: str = "") -> Any:
    """A document with small numbers and with what can be had here."""
    if isinstance(document, list):
        return [small(one, endpoint, section) for one in document]
    if not isinstance(document, dict):
        return PATHS.get(document, document) if isinstance(document, str) else document
    if (kind := document.get("type")) in SWAPS:
        kept = {key: document[key] for key in ("name", "weight") if key in document}
        return {**SWAPS[str(kind)], **kept}
    found = {}
    for key, value in document.items():
        bound = MOST.get(section, {}).get(key)
        small_enough = min(value, bound) if bound is not None and isinstance(value, int) else value
        found[key] = small(small_enough, endpoint, key)
    return {**found, "url": endpoint} if kind == "http" else found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_to_its_end(recipe: Path, folder: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    if "video-reward-qwen2vl/model" in recipe.read_text() and not (folder / "runs/rating").exists():
        run(ROOT / "configs/video/video-reward-qwen2vl.yaml", folder, endpoint, "name=rating")
    run(recipe, folder, endpoint)
    made = folder / "runs" / yaml.safe_load(recipe.read_text())["name"]
    for one in (made, *made.iterdir()):
        if (
            not (one / "metrics.jsonl").is_file()
            or not yaml.safe_load((one / "config.yaml").read_text())["trainer"]["steps"]
        ):
            continue
        rows = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in rows if "loss" in row]
        assert losses
        assert all(math.isfinite(loss) for loss in losses)
        assert any((one / "model").iterdir())


def run(recipe: Path, folder: Path, endpoint: str, *overrides: str) -> None:
    """Train as the recipe says, small."""
    file = folder / recipe.name
    document = {**small(yaml.safe_load(recipe.read_text()), endpoint), "plugins": ["./chance.py"]}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    own = [f"{key}={value}" for key, value in OWN.get(recipe.stem, {}).items()]
    done = command_line.here("train", file, *own, *overrides)
    assert done.returncode == 0, done.stderr
