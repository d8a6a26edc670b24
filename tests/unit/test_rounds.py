"""What is finished stays, what changed is made anew with all that depends on it, and a killed one goes on."""

import pytest

from mmalign import RunFailure, UserError, plugins, rounds, stages
from mmalign.compose import resolved
from mmalign.document import dump
from mmalign.run import run_folder

PLUGIN = '''
from mmalign import ModelSpec, hookimpl

class Tiny:
    """A model without weights."""
    def __init__(self, path: str, lora: str | None = None):
        raise AssertionError("checks build nothing")

@hookimpl
def mmalign_models():
    yield ModelSpec("tiny", Tiny, process="denoising")
'''

CONFIG = """\
name: online
folder: {folder}
rounds: 2
plugins: [./tiny.py]
model: {{type: tiny, path: base}}
data: {{type: pairs, path: pairs.jsonl}}
trainer: {{steps: 2}}
stages:
  - {{name: a, objective: dpo, model: {{lora: "${{previous.model}}"}}}}
  - {{name: b, objective: ipo, model: {{lora: "${{stages.a.model}}"}}}}
  - {{name: c, objective: dpo}}
"""
NAMES = ["1-a", "1-b", "1-c", "2-a", "2-b", "2-c"]


class World:
    """Documents in a folder, and runs that only leave behind what a run leaves behind."""

    def __init__(self, folder):
        self.folder = folder
        self.ran: list[tuple[str, bool]] = []
        self.fails_in = ""
        (folder / "tiny.py").write_text(PLUGIN)
        (folder / "online.yaml").write_text(CONFIG.format(folder=folder / "runs"))

    def opened(self, *overrides):
        document = stages.load(self.folder / "online.yaml", overrides)
        found = plugins.load(document.staged.plugins, self.folder, installed=False)
        return document, stages.choose_all(document, found)

    def run(self, chosen, resume=False):
        folder = run_folder(chosen.config)
        self.ran.append((folder.name, resume))
        dump(resolved(chosen), folder / "config.yaml")
        if folder.name == self.fails_in:
            raise RunFailure("as asked")
        (folder / "model").mkdir()

    def train(self, *overrides, resume=False):
        self.ran.clear()
        rounds.train(*self.opened(*overrides), resume)
        return [name for name, _ in self.ran]

    def now(self, *overrides):
        _, opened = self.opened(*overrides)
        return {s.name: f for s, f in zip(opened, rounds.statuses(opened), strict=True)}


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = World(tmp_path)
    monkeypatch.setattr(rounds.run, "train", made.run)
    return made


def test_stages_run_in_order_and_are_never_made_again(world):
    assert {status.what for status in world.now().values()} == {"to do"}
    assert world.train() == NAMES
    assert {status.what for status in world.now().values()} == {"done"}
    with pytest.raises(UserError, match="already holds runs: go on with --resume"):
        world.train()
    assert world.train(resume=True) == []
    assert world.train("trainer.checkpoint_every=1", resume=True) == []
    assert world.train("rounds=3", resume=True) == ["3-a", "3-b", "3-c"]


def test_a_stage_that_was_killed_goes_on(world):
    world.fails_in = "1-b"
    with pytest.raises(RunFailure):
        world.train()
    assert [status.what for status in world.now().values()] == ["done", "started", *["to do"] * 4]
    world.fails_in = ""
    assert world.train(resume=True) == NAMES[1:]
    assert world.ran[0] == ("1-b", True)
    assert not any(resumed for _, resumed in world.ran[1:])


def test_a_change_redoes_exactly_what_depends_on_it(world, capsys):
    world.train()
    change = "stages.1.trainer={steps: 3}"
    now = world.now(change)
    assert {name for name, status in now.items() if status.what == "changed"} == {"1-b", "2-b"}
    assert now["1-b"].why == "trainer.steps (2 -> 3)"
    change = "stages.2.trainer={steps: 3}"  # the last stage, which the next round starts from
    now = world.now(change)
    assert [name for name, status in now.items() if status.what == "done"] == ["1-a", "1-b"]
    assert now["2-a"].why == "after 1-c"
    capsys.readouterr()
    assert world.train(change, resume=True) == NAMES[2:]
    told = capsys.readouterr().out
    assert "1-c: made anew, for it changed (trainer.steps (2 -> 3)); before:" in told
    assert "1-a: done before" in told
    kept = sorted(path.name for path in (world.folder / "runs/online").glob("*.old-1"))
    assert kept == [f"{name}.old-1" for name in NAMES[2:]]
    assert {status.what for status in world.now(change).values()} == {"done"}


def test_what_lost_its_result_is_not_done(world):
    world.train()
    (world.folder / "runs/online/1-c/model").rmdir()
    assert world.now()["1-c"].what == "started"


def test_the_folder_of_all_stages_can_be_named_to_go_on(world):
    world.train()
    folder = world.folder / "runs/online"
    document = stages.load(folder / "config.yaml")
    found = plugins.load(document.staged.plugins, folder, installed=False)
    assert {status.what for status in rounds.statuses(stages.choose_all(document, found))} == {"done"}
