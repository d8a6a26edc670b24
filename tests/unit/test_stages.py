"""Documents with stages: what a stage inherits and names, and that every fault of every stage is told with its line."""

import json
import re

import pytest

from mmalign import UserError, config, plugins, staged, stages
from mmalign.collected import Collection

PLUGIN = '''
from mmalign import ModelSpec, RewardSpec, hookimpl

class Tiny:
    """A model without weights."""
    def __init__(self, path: str, lora: str | None = None, size: int = 3):
        raise AssertionError("checks build nothing")

@hookimpl
def mmalign_models():
    yield ModelSpec("tiny", Tiny, process="denoising")

@hookimpl
def mmalign_rewards():
    yield RewardSpec("blueness", Tiny, differentiable=True)
'''

TWO = """\
name: two
rounds: 2
plugins: [./tiny.py]
model: {type: tiny, path: base, size: 4}
data: {type: prompts, path: prompts.txt}
rewards: [{type: blueness, path: here}]
trainer: {steps: 5, seed: "${round}"}
stages:
  - name: first
    model: {lora: "${previous.model}"}
    objective: draft
    collect: {samples_per_prompt: 2}
  - name: second
    model: {lora: "${stages.first.model}"}
    data: {type: pairs, path: "${stages.first.pairs}"}
    objective: dpo
    trainer: {steps: 7}
"""


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "tiny.py").write_text(PLUGIN)

    def open_(text: str = TWO, overrides=()):
        (tmp_path / "two.yaml").write_text(text)
        document = stages.load(tmp_path / "two.yaml", overrides)
        found = plugins.load(document.staged.plugins, tmp_path, installed=False)
        return {stage.name: stage for stage in stages.choose_all(document, found)}

    return open_


def refusal(opened, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        opened(*arguments)
    return str(caught.value)


def test_stages_inherit_and_name_what_came_before(opened):
    found = opened()
    assert list(found) == ["1-first", "1-second", "2-first", "2-second"]
    configs = {name: stage.chosen.config for name, stage in found.items()}
    loras = {name: stage.chosen.model.options["lora"] for name, stage in found.items()}
    assert loras == {
        "1-first": None,
        "1-second": "runs/two/1-first/model",
        "2-first": "runs/two/1-second/model",
        "2-second": "runs/two/2-first/model",
    }
    assert found["2-second"].chosen.data.options["path"] == "runs/two/2-first/pairs/pairs.jsonl"
    assert [stage.needs for stage in found.values()] == [[], ["1-first"], ["1-second"], ["2-first"]]
    assert {c.model.options["size"] for c in configs.values()} == {4}
    assert [(c.trainer.steps, c.trainer.seed) for c in configs.values()] == [(5, 1), (7, 1), (5, 2), (7, 2)]
    assert [(c.name, c.folder) for c in configs.values()][-1] == ("2-second", "runs/two")
    assert configs["1-first"].collect is not None
    assert configs["1-second"].collect is None


def test_a_part_of_another_type_is_replaced_whole(opened):
    found = opened()
    assert found["1-second"].chosen.data.options.keys() == {"path", "preset", "split"}


def test_a_reference_may_say_what_holds_in_the_first_round(opened):
    found = opened(TWO.replace('"${previous.model}"', '"${previous.model|elsewhere/lora}"'))
    assert found["1-first"].chosen.model.options["lora"] == "elsewhere/lora"
    assert found["2-first"].chosen.model.options["lora"] == "runs/two/1-second/model"


def test_overrides_reach_the_top_and_each_stage(opened):
    found = opened(TWO, ["name=three", "stages.1.trainer.steps=9", "trainer.batch_size=3"])
    steps = [stage.chosen.config.trainer.steps for stage in found.values()]
    assert steps == [5, 9, 5, 9]
    assert {stage.chosen.config.trainer.batch_size for stage in found.values()} == {3}
    assert found["2-first"].needs == ["1-second"]
    assert found["2-first"].chosen.config.folder == "runs/three"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("${stages.first.model}", "${stages.frist.model}", 14, "no stage is called 'frist', did you mean 'first'?"),
        ("${stages.first.model}", "${stages.second.model}", 14, "'second' does not come before this one"),
        ("${stages.first.model}", "${stages.first.weights}", 14, "no 'weights'"),
        ("${stages.first.model}", "${first.model}", 14, "a reference is"),
        ("    collect: {samples_per_prompt: 2}\n", "", 14, "has no `collect`"),
        ("name: second", "name: first", 13, "another stage is called 'first'"),
        ("name: second", "name: a/b", 13, "without slashes"),
        ("rounds: 2", "rounds: 0", 2, "at least 1"),
        ("objective: dpo", "objective: dppo", 16, "dppo"),
        ("trainer: {steps: 7}", "trainer: {stps: 7}", 17, "stps"),
        ("size: 4", "size: x", 4, "whole number"),
        ("trainer: {steps: 7}", "folder: there", 17, "belongs to the whole document"),
    ],
)
def test_a_fault_is_told_with_its_line_and_once(old, new, line, message, opened):
    told = refusal(opened, TWO.replace(old, new))
    lines = [one for one in told.splitlines() if message in one]
    assert len(lines) == 1, told
    assert f"two.yaml:{line}:" in lines[0]


def test_the_faults_of_all_stages_are_told_at_once(opened):
    wrong = (
        TWO.replace("objective: draft", "objective: darft").replace("steps: 7", "stps: 7").replace("size: 4", "siz: 4")
    )
    told = refusal(opened, wrong, ["rewards.0.weight=x"])
    assert all(word in told for word in ("darft", "stps", "siz", "rewards.0.weight"))


def test_no_stages_are_a_fault(opened):
    assert "stages" in refusal(opened, TWO[: TWO.index("stages:")] + "stages: []\n")


def test_verbs_for_one_run_point_to_the_runs(opened, tmp_path):
    opened()
    with pytest.raises(UserError, match=r"name one of its runs here, the folder"):
        config.load(tmp_path / "two.yaml")


def test_a_reference_may_go_back_further_than_one_round(opened):
    text = TWO.replace("rounds: 2", "rounds: 3").replace("${previous.model}", "${previous.previous.model|base}")
    loras = {name: stage.chosen.model.options["lora"] for name, stage in opened(text).items()}
    assert [loras[f"{n}-first"] for n in (1, 2, 3)] == ["base", "base", "runs/two/1-second/model"]
    assert opened(text)["3-first"].needs == ["1-second"]


# ---- the schema for editors


def definitions():
    return staged.schema()["$defs"]


def test_every_reference_of_the_schema_leads_somewhere():
    found = definitions()
    told = re.findall(r'"#/\$defs/(\w+)"', json.dumps(staged.schema()))
    assert set(told) <= set(found)
    assert {"Config", "Collection", "Staged", "StagedTrainer"} <= set(told) | set(found)


def test_the_schema_knows_stages_rounds_and_the_keys_of_each_stage():
    found = definitions()
    assert set(found["Staged"]["required"]) == {"name", "stages"}
    keys = {*config.Config.model_fields, *Collection.model_fields}
    assert set(found["Staged"]["properties"]) == {*keys, "stages", "rounds"}
    assert found["Staged"]["properties"]["stages"]["items"] == {"$ref": "#/$defs/NamedStage"}
    assert set(found["NamedStage"]["properties"]) == keys - {"folder", "plugins"}
    collects = [one for way in found["NamedStage"]["properties"]["collect"]["anyOf"] for one in way.get("anyOf", [way])]
    assert {one.get("$ref", "").rpartition("/")[2] for one in collects} >= {"StagedCollect", "StagedCollecting"}
    assert found["NamedStage"]["required"] == ["name"]
    assert not found["NamedStage"]["additionalProperties"]
    assert "required" not in found["StagedTrainer"]  # the rest may stand at the top
    assert "required" in found["Trainer"]


def test_what_is_a_number_in_a_run_may_name_something_in_a_stage():
    seed = definitions()["StagedTrainer"]["properties"]["seed"]["anyOf"]
    assert [one["type"] for one in seed] == ["integer", "string"]
    assert re.fullmatch(seed[1]["pattern"], "${round}")
    assert definitions()["Trainer"]["properties"]["seed"]["type"] == "integer"
