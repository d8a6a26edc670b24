"""Feedback through the command line: a model answers, a judge labels, a reward model learns from it, stage after stage."""

import json
import signal
from pathlib import Path

import pytest
from command_line import apart, here

from mmalign_shapes.images import ShapesCaptions, ShapesCorrections
from mmalign_shapes.oracle import judged

KILLER = """
import os, signal
from pathlib import Path
from mmalign import JudgeSpec, hookimpl
from mmalign_shapes.judge import ShapesOracle

class Deadly(ShapesOracle):
    \"\"\"The oracle, which kills once.\"\"\"

    def __init__(self, after: int):
        self.left = after

    def verify(self, questions):
        self.left -= 1
        if self.left < 0 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with open("asked", "a") as file:
            file.writelines(f"{id}\\n" for id in {prompt.metadata["scene"] for prompt, _ in questions})
        return super().verify(questions)

@hookimpl
def mmalign_judges():
    yield JudgeSpec("deadly", Deadly)
"""
ON_DATA = """
name: {name}
folder: {folder}/runs
plugins: [./killer.py]
data: {{type: {data}, size: 7}}
judge: {{type: deadly, after: 2}}
collect: {{batch_size: 2}}
"""


@pytest.fixture
def mmalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command line here: arguments -> what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> str:
        done = here(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_killed_and_resumed_equals_uninterrupted(mmalign, tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    for name, data in (("whole", "shapes-captions"), ("killed", "shapes-captions")):
        (tmp_path / f"{name}.yaml").write_text(ON_DATA.format(name=name, folder=tmp_path, data=data))
    assert apart("collect", "killed.yaml").returncode == -signal.SIGKILL
    runs = tmp_path / "runs"
    assert not (runs / "killed/segments.jsonl").exists()
    assert len(rows_of(runs / "killed/judged.jsonl")) == 2 * 2 + 2  # two batches and what each has cost
    mmalign("collect", "killed.yaml", "--resume")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 7

    whole = mmalign("collect", "whole.yaml", "--json")
    for name in ("segments.jsonl", "collection.json"):
        assert (runs / "killed" / name).read_bytes() == (runs / "whole" / name).read_bytes()
    told = json.loads(whole)
    assert told["answers"] == 7
    assert all("hallucinated" not in labels for labels in told["labels"].values())
    rows = rows_of(runs / "whole/segments.jsonl")
    captions = ShapesCaptions(size=7)
    assert [row["completion"] for row in rows] == [captions[i]["sample"] for i in range(7)]
    assert all((runs / "whole" / row["images"][0]).is_file() for row in rows)


def test_json_stands_alone_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far it is goes to stderr, so that stdout can be piped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmalign.console.QUIET", 0.0)
    config = {"name": "fb", "data": {"type": "shapes-captions", "size": 4}, "judge": "shapes-oracle"}
    Path("c.yaml").write_text(json.dumps({**config, "collect": {"batch_size": 2}}))
    done = here("collect", "c.yaml", "--json")
    assert json.loads(done.stdout)["answers"] == 4
    assert "batches of answers judged: 1/2" in done.stderr


def test_corrections_are_labelled_where_they_were_corrected(mmalign, tmp_path: Path) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "c.yaml").write_text(ON_DATA.format(name="c", folder=tmp_path, data="shapes-corrections"))
    assert "run folder:" in mmalign("collect", "c.yaml", "judge=shapes-oracle")
    rows, data = rows_of(tmp_path / "runs/c/segments.jsonl"), ShapesCorrections(size=7)
    assert [row["answer"] for row in rows] == ["chosen", "rejected"] * 7
    for row in rows:
        said = judged(row["completion"], data[row["row"]]["prompt"].metadata["scene"])
        wrong = [(one.statement.claim.type, one.statement.start) for one in said if one.true is False]
        assert bool(wrong) == (row["answer"] == "rejected")
        for start, end, labels in row["segments"]:
            false = {kind for kind, place in wrong if start <= place < end}
            assert {kind for kind, label in labels.items() if label == "hallucinated"} == false


STAGES = """
name: feedback
folder: {folder}/runs
model: {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data: {{type: shapes-images, size: 6}}
stages:
  - name: collect
    judge: {{type: vlm, path: {llava}, template: "is this {{fact}}"}}
    facts: shapes-oracle
    sampling: {{max_new_tokens: 6}}
    collect: {{samples_per_prompt: 2, batch_size: 5}}
  - name: reward
    model:
      type: vlm-reward
      path: {llava}
      adapter: {{rank: 4}}
      heads: {{names: [existence], classes: [absent, faithful, hallucinated]}}
    data: {{type: text-segments, path: "${{stages.collect.segments}}"}}
    objective: segment-classification
    trainer: {{steps: 2, batch_size: 2, learning_rate: 1.0e-3}}
"""


def test_a_model_answers_and_a_reward_model_learns_from_the_feedback(mmalign, llava: Path, tmp_path: Path) -> None:
    config = tmp_path / "stages.yaml"
    config.write_text(STAGES.format(folder=tmp_path, llava=llava))
    planned = mmalign("plan", config)
    assert "1-collect  to do" in planned
    assert "mmalign/judging.py" in planned
    mmalign("train", config)
    runs = tmp_path / "runs/feedback"
    rows = rows_of(runs / "1-collect/segments.jsonl")
    journal = [line for line in rows_of(runs / "1-collect/judged.jsonl") if "row" in line]
    assert [(line["row"], line["answer"]) for line in journal] == [(i, k) for i in range(6) for k in range(2)]
    assert len({line["completion"] for line in journal}) > 1
    assert rows == [line for line in journal if line["segments"]]
    assert [row["step"] for row in rows_of(runs / "1-reward/metrics.jsonl")] == [1, 2]
    assert (runs / "1-reward/model").is_dir()
    before = (runs / "1-collect/judged.jsonl").stat().st_mtime_ns
    mmalign("train", config, "--resume")
    assert (runs / "1-collect/judged.jsonl").stat().st_mtime_ns == before
    assert "samples_per_prompt: 2" in mmalign("config", "show", config)


def test_judges_are_listed_and_described(mmalign) -> None:
    listed = mmalign("list", "judges")
    assert all(name in listed for name in ("shapes-oracle", "vlm", "http"))
    described = mmalign("describe", "judge", "http")
    assert "key_variable" in described
    assert "concurrency" in described
