"""Every config that we ship is accepted without a network and opens with a document's head."""

from pathlib import Path

import pytest

from mmalign import collection, compose, config, plan, plugins, stages

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def found():
    return plugins.load()


def every_run(path, found):
    """What a config chooses: for one run, or for each of its stages that trains; the others are checked as they are chosen."""
    if stages.has_stages(path):
        chosen = [stage.chosen for stage in stages.choose_all(stages.load(path), found)]
        return [one for one in chosen if isinstance(one, compose.Chosen)]
    return [compose.choose(config.load(path, tolerant=True), found)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_config_passes_every_check(path, found):
    for chosen in every_run(path, found):
        parts = [part.name for part in plan.stages(chosen)]
        assert parts[0] == "data"
        assert parts[-1] == "result"
        resolved = compose.resolved(chosen)
        assert resolved["sampling"].keys() == chosen.process.Sampling.__dataclass_fields__.keys()
        assert resolved["trainer"]["betas"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_config_says_how_to_run_it(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"mmalign train {path.relative_to(ROOT)}" in line for line in head)
    assert any("arXiv" in line for line in head)


def test_what_fgaif_s_reward_models_learn_from_is_collected(found):
    """Of each of the three, the recipe says who labels what it learns from, and what it is measured on."""
    made = stages.choose_all(stages.load(ROOT / "configs/lvlm/fgaif-llava15.yaml"), found)
    collecting = [stage.name for stage in made if isinstance(stage.chosen, collection.ChosenCollection)]
    assert collecting == ["1-feedback", "1-held-out"]
    for kind in ("existence", "attribute", "relation"):
        (stage,) = (stage for stage in made if stage.name == f"1-{kind}")
        assert set(stage.needs) == set(collecting)
