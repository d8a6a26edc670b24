"""WorldSimBench: scores by scenario, agreement with people by hand and against torch, and what cannot be evaluated."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from mmalign import plugins, verbs
from mmalign.builtin.statistics import estimates
from mmalign.cli import app
from mmalign.errors import UserError
from mmalign.records import Prompt, Samples, Scores
from mmalign.rewards.weighted import CheckedReward
from mmalign_video import tiny, videos
from mmalign_video.metrics.worldsimbench import SCENARIOS, WorldSimBench

from .test_videos import clip

NAMES = tuple(dict.fromkeys(name for scenario in SCENARIOS.values() for name in scenario.dimensions))


def metric(said: Mapping[str, Sequence[float]]) -> WorldSimBench:
    """With an evaluator that says this of the first videos in each dimension."""
    made = WorldSimBench.__new__(WorldSimBench)
    columns = {name: torch.tensor(column, dtype=torch.float64) for name, column in said.items()}
    made.reward = CheckedReward("said", lambda samples: Scores(torch.zeros(len(samples)), columns))
    return made


def asked(*metadata: Mapping[str, Any]) -> Samples:
    return Samples([Prompt("walk to the tree", one) for one in metadata], torch.zeros(len(metadata), 2, 3, 8, 8))


def numbers(made: WorldSimBench, samples: Samples) -> dict[str, float]:
    return {name: found["mean"] for name, found in estimates(made.numbers, made.counts(samples)).items()}


def everywhere(column: Sequence[float]) -> dict[str, Sequence[float]]:
    return dict.fromkeys(NAMES, column)


def test_a_video_has_the_dimensions_of_its_scenario() -> None:
    said = {name: [float(i), 10.0 + i, 20.0 + i] for i, name in enumerate(NAMES)}
    found = metric(said).evaluate(asked({"scenario": "RM"}, {"scenario": "OE"}, {"scenario": "AD"}))
    assert [tuple(one) for one in found] == [SCENARIOS[name].dimensions for name in ("RM", "OE", "AD")]
    assert found[1] == {name: said[name][1] for name in SCENARIOS["OE"].dimensions}


def test_two_numbers_agree_where_both_lie_on_one_side() -> None:
    said = {**everywhere([1.0] * 4), "BC": [1.4, 1.6, 1.6, 9.0]}
    rows = [{"scenario": "OE", "ratings": {"BC": s, "FC": None}} for s in (1, 1, 2, None)]
    found = numbers(metric(said), asked(*rows))
    assert found["OE/BC/accuracy"] == pytest.approx(2 / 3)
    assert found["OE/BC/score"] == pytest.approx(3.4)
    assert found["OE/accuracy"] == found["OE/BC/accuracy"]
    assert found["OE/score"] == pytest.approx((3.4 + 6) / 7)
    assert not any("FC/accuracy" in name or name.startswith(("AD", "RM")) or "plcc" in name for name in found)


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 5)), min_size=3, max_size=12))
def test_the_correlation_is_that_of_torch(pairs: list[tuple[float, int]]) -> None:
    r, s = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    rows = [{"scenario": "AD", "ratings": {"AE": one}} for one in s.tolist()]
    found = numbers(metric({**everywhere([0.0] * len(pairs)), "AE": r.tolist()}), asked(*rows))["AD/AE/plcc"]
    if min(r.std(), s.std()) < 1e-3:
        assert abs(found) <= 1 + 1e-6
    else:
        assert found == pytest.approx(float(torch.corrcoef(torch.stack([r, s]))[0, 1]), abs=1e-6)


def test_what_does_not_vary_is_not_correlated() -> None:
    rows = [{"scenario": "RM", "ratings": {"AE": one}} for one in (1, 3, 5)]
    assert numbers(metric(everywhere([0.1] * 3)), asked(*rows))["RM/AE/plcc"] == 0


def test_a_video_without_a_score_is_left_out_and_counted() -> None:
    said = {**everywhere([1.0, 2.0]), "EI": [math.nan, 2.0], "KE": [1.0, math.nan]}
    made, samples = metric(said), asked({"scenario": "OE"}, {"scenario": "OE"})
    found = estimates(made.numbers, made.counts(samples))["OE/score"]
    assert (found["mean"], found["n"], found["unscored"]) == (2, 1, 1)  # KE is not of this scenario


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "has no scenario: add a column `scenario` with OE, AD, RM"),
        ({"scenario": "driving"}, "has the scenario 'driving'"),
        ({"scenario": "OE", "ratings": {"BC": 3}}, "3 is no rating of BC, which is 1 or 2, or null"),
        ({"scenario": "OE", "ratings": {"BC": 1.5}}, "1.5 is no rating of BC"),
        ({"scenario": "AD", "ratings": {"AE": 0}}, "0 is no rating of AE, which is 1 to 5"),
        ({"scenario": "AD", "ratings": {"AE": math.nan}}, "nan is no rating"),
        ({"scenario": "AD", "ratings": {"AE": "good"}}, "'good' is no rating"),
        ({"scenario": "AD", "ratings": {"BC": 3}}, "its scenario has no dimension 'BC'"),
    ],
)
def test_prompts_that_cannot_be_evaluated_are_named(metadata: Mapping[str, Any], told: str) -> None:
    with pytest.raises(UserError, match="walk to the tree") as raised:
        metric(everywhere([1.0])).counts(asked(metadata))
    assert told in str(raised.value)


def test_an_evaluator_without_the_dimensions_is_named() -> None:
    said = {name: [1.0] for name in NAMES if name != "KE"}
    assert metric(said).evaluate(asked({"scenario": "OE"}))
    with pytest.raises(UserError, match="reward 'said' says nothing of KE; its dimensions are"):
        metric(said).evaluate(asked({"scenario": "AD"}))


def test_an_evaluator_is_named_as_rewards_are() -> None:
    with pytest.raises(UserError, match="reward: missing `type`"):
        WorldSimBench(reward={"path": "x"})
    with pytest.raises(UserError, match="unknown reward 'no-such-reward'"):
        WorldSimBench(reward={"type": "no-such-reward"})


# ---- from files, on the command line


RECIPE = Path(__file__).parents[2] / "configs" / "video" / "worldsimbench-qwen2vl.yaml"
SMALL = ("dtype=float32", "max_pixels=256", "frame_rate=null", "adapter={rank: 4, alpha: 8}")


def rated(folder: Path) -> Path:
    """A samples.jsonl of videos of different lengths, their scenarios, and what people said."""
    rows = []
    for i, (scenario, frames) in enumerate([("OE", 4), ("OE", 4), ("AD", 5), ("AD", 3)]):
        (folder / str(i)).mkdir()
        videos.write(Samples([Prompt("go")], clip(frames).roll(i, 0)[None], frame_rate=8.0), folder / str(i))
        ratings = {name: 1 + i % 2 if name == "IA" else None for name in NAMES}
        rows.append({"prompt": "go", "sample": f"{i}/0000.mp4", "scenario": scenario, "ratings": ratings})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "samples.jsonl"


def said(*arguments: str | Path) -> str:
    """What the command line prints where it ends well."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_recipe_trains_an_evaluator_that_is_compared_with_people(tmp_path: Path) -> None:
    data = rated(tmp_path)
    settings = [f"model.{one}" for one in (*SMALL, f"path={tiny.save_judge(tmp_path / 'qwen')}")]
    where = [f"folder={tmp_path / 'runs'}", f"data.path={data}", f"evaluation.data.path={data}"]
    said(
        "train",
        RECIPE,
        *where,
        *settings,
        "trainer.steps=2",
        "trainer.gradient_accumulation=1",
        "trainer.precision='no'",
    )
    model = tmp_path / "runs" / "worldsimbench-qwen2vl" / "model"
    reward = f"worldsimbench.reward={{type: video-reward, path: {model}, standardize: false}}"
    told = said("score", tmp_path, "--metric", "worldsimbench", reward, "--json")
    found = json.loads(told)["metrics"]["worldsimbench"]
    assert (found["OE/score"]["n"], found["OE/score"]["unscored"]) == (4, 0)
    assert {"OE/BC/score", "OE/IA/accuracy", "AD/IA/plcc", "AD/KE/score"} <= found.keys()
    assert "OE/BC/accuracy" not in found
    assert abs(found["AD/IA/plcc"]["mean"]) == pytest.approx(1, abs=1e-6)  # of two points


SEEN = '''
from mmalign import RewardSpec, hookimpl

def seen():
    """The frame rate of what it is shown, -1 where nobody knows."""
    return lambda samples: [samples.frame_rate or -1.0] * len(samples)

@hookimpl
def mmalign_rewards():
    yield RewardSpec("seen", seen)
'''


def test_scored_videos_have_the_frame_rate_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of one size and another rate are no batch; pictures have none."""
    rates = [8.0, 16.0, 16.0, 12.5]
    rows = [{"prompt": "go", "sample": f"{i}/0000.mp4"} for i in range(len(rates))]
    for i, rate in enumerate(rates):
        (tmp_path / str(i)).mkdir()
        videos.write(Samples([Prompt("go")], clip(4)[None], frame_rate=rate), tmp_path / str(i))
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    rows.append({"prompt": "go", "sample": "picture.png"})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "seen.py").write_text(SEEN)
    found = plugins.load([str(tmp_path / "seen.py")])
    monkeypatch.setattr(plugins, "load", lambda: found)
    assert verbs.score(tmp_path, ["seen"])["seen"]["scores"] == pytest.approx([*rates, -1.0])


def test_the_evaluator_is_moved() -> None:
    moved: list[str] = []
    made = WorldSimBench.__new__(WorldSimBench)
    made.reward = CheckedReward("said", SimpleNamespace(to=moved.append))
    assert made.to("cpu") is made
    assert moved == ["cpu"]
    made.reward = CheckedReward("said", len)
    made.to("cpu")


def test_nothing_to_score_with_is_told(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text("")
    done = CliRunner().invoke(app, ["score", str(tmp_path)])
    assert done.exit_code == 2
    assert "name a --reward or a --metric" in done.output
