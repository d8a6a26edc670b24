"""docs/results.md: only what is missing or changed is run, and every row is arithmetic over seeds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from docs import results_keys, results_table
from docs.results_keys import key, meaning
from docs.results_table import Claim, Results, Run, number, shown, update
from mmalign.errors import UserError

CONFIG = """
name: demo
model: {type: nothing}
objective: {type: dpo, beta: 0.1}
trainer: {steps: 5}
"""
CLAIMS = """
- {name: gain, claim: It rises, paper: "+0.2", config: a.yaml, number: rewards.oracle.difference.mean}
- {name: after, claim: It is high, config: a.yaml, number: rewards.oracle.after.mean, percent: true}
- name: better
  claim: A beats B
  config: a.yaml
  number: rewards.oracle.difference.mean
  than: {config: b.yaml, overrides: ["objective.beta=1"]}
- {name: other, claim: Something else, config: b.yaml, number: rewards.oracle.after.mean, seeds: [0]}
"""


class Trained:
    """Stands for `train`: A gains 0.1, 0.2, 0.3 with the seed and B half of that. made: what was asked for."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, root: Path, run: Run, name: str) -> Mapping[str, Any]:
        command = run.recipe.command(run.seed)
        self.made.append(command)
        gain = 0.1 * (run.seed + 1) * (1 if "a.yaml" in command else 0.5)
        oracle = {"before": {"mean": 0.5}, "after": {"mean": 0.5 + gain}, "difference": {"mean": gain}}
        return {"": {"rewards": {"oracle": oracle}}}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/claims.yaml").write_text(CLAIMS)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(CONFIG)
    return tmp_path


def made(repository: Path, only: str | None = None, render: bool = False) -> list[str]:
    """The commands that an update ran."""
    trained = Trained()
    assert update(Results(repository, trained), only, render) == []
    return trained.made


def rows(repository: Path) -> dict[str, list[str]]:
    """By claim the cells of the page."""
    lines = (repository / "docs/results.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row for row in cells[2:]}


def test_runs_that_claims_share_are_made_once_and_then_never_again(repository: Path) -> None:
    first = made(repository)
    assert sorted(first) == sorted(
        [
            *(f"mmalign train a.yaml trainer.seed={seed}" for seed in range(3)),
            *(f"mmalign train b.yaml objective.beta=1 trainer.seed={seed}" for seed in range(3)),
            "mmalign train b.yaml trainer.seed=0",
        ]
    )
    assert made(repository) == []


def test_rows_are_means_with_errors_over_seeds(repository: Path) -> None:
    made(repository)
    page = rows(repository)
    assert page["It rises"][1:4] == ["+0.2", "0.200 ± 0.058", "3"]
    assert page["It is high"][2] == "(70.0 ± 5.8) %"
    assert page["A beats B"][2] == "+0.100 ± 0.029"  # of the differences 0.05, 0.1, 0.15, not of either side
    assert (
        page["A beats B"][5]
        == "`mmalign train a.yaml trainer.seed=0`<br>`mmalign train b.yaml objective.beta=1 trainer.seed=0`"
    )
    assert page["Something else"][2] == "0.550"


def test_stages_of_one_run_are_compared() -> None:
    given = {"name": "n", "claim": "c", "config": "a.yaml", "stage": "1-b", "number": "loss"}
    claim = Claim.model_validate({**given, "than": {"config": "a.yaml", "stage": "1-a"}})
    found = {"1-a": {"loss": 0.25}, "1-b": {"loss": 1.0}}
    assert results_table.numbers(claim, [found, found]) == [1.0, 0.25]
    same = Claim.model_validate({**given, "than": {"config": "b.yaml"}})
    assert results_table.numbers(same, [found, found]) == [1.0, 1.0]


def test_without_runs_nothing_is_measured_and_rendering_runs_nothing(repository: Path) -> None:
    assert made(repository, render=True) == []
    assert {row[2] for row in rows(repository).values()} == {"not measured"}
    assert rows(repository)["It rises"][3] == "0 of 3"


def test_only_makes_the_runs_of_one_claim(repository: Path) -> None:
    assert made(repository, "other") == ["mmalign train b.yaml trainer.seed=0"]
    assert len(made(repository, "a")) == 6  # all claims about a.yaml, and what it is compared to
    with pytest.raises(UserError, match="no claim is called 'otter'; there are gain, after, better, other"):
        made(repository, "otter")


def test_a_changed_config_is_run_again_and_until_then_marked(repository: Path) -> None:
    made(repository)
    (repository / "b.yaml").write_text(CONFIG.replace("steps: 5", "steps: 6"))
    made(repository, render=True)
    assert rows(repository)["Something else"][2] == "0.550 (outdated)"
    assert rows(repository)["It rises"][2] == "0.200 ± 0.058"
    again = made(repository)
    assert ["b.yaml" in command for command in again] == [True] * 4
    assert rows(repository)["Something else"][2] == "0.550"


def test_comments_change_nothing_and_a_version_everything(repository: Path) -> None:
    made(repository)
    (repository / "b.yaml").write_text("# A remark.\n" + CONFIG)
    assert made(repository) == []
    claims = CLAIMS.replace("config: b.yaml, number", "config: b.yaml, version: 1, number")
    (repository / "docs/results/claims.yaml").write_text(claims)
    assert made(repository) == ["mmalign train b.yaml trainer.seed=0"]


def test_a_run_depends_on_the_parts_that_it_names_and_on_no_others(repository: Path, monkeypatch: Any) -> None:
    config, read = repository / "a.yaml", []
    monkeypatch.setattr(results_keys, "meaning", lambda path: read.append(path.as_posix()) or b"")
    key(config, [])
    assert any(path.endswith("mmalign/objectives/dpo.py") for path in read)
    assert any(path.endswith("mmalign/loop.py") for path in read)
    assert not any(path.endswith("mmalign/objectives/kto.py") for path in read)


def test_what_parts_import_counts_however_deep_and_what_only_types_ask_for_does_not(repository: Path) -> None:
    """The process of denoising samples through walks, whose path is a third file's; kto is nobody's here."""
    said = {"dpo", "diffusers"}
    found = {path.as_posix().rpartition("/mmalign/")[2] for path in results_keys.code_of(said)}
    assert {"processes/denoising.py", "processes/surrogate.py", "samplers/walk.py", "maths/paths.py"} <= found
    assert {"objectives/dpo.py", "objectives/paired.py", "feeds.py"} <= found
    assert not {"objectives/kto.py", "processes/tokens.py", "run.py", "records.py"} & found


def test_a_change_in_what_is_imported_is_another_key(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "mmalign_deep"
    (package / "inner").mkdir(parents=True)
    written = {
        "__init__": "",
        "part": "from mmalign_deep.inner import one\nif TYPE_CHECKING:\n    from mmalign_deep import types",
        "types": "A = 1",
        "inner/__init__": "",
        "inner/one": "def f():\n    import mmalign_deep.inner.two\n    from json import loads",
        "inner/two": "from mmalign_deep.part import f  # a circle\nWEIGHT = 1",
    }
    for name, code in written.items():
        (package / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(results_keys, "LOOP", ())
    monkeypatch.setattr(results_keys, "parts", lambda: {"deep": ["mmalign_deep.part"]})
    found = {path.relative_to(package).as_posix() for path in results_keys.code_of({"deep"})}
    assert found == {"part.py", "inner/__init__.py", "inner/one.py", "inner/two.py"}
    (tmp_path / "a.yaml").write_text("name: deep\n")

    def now() -> str:
        for kept in (results_keys.meaning, results_keys.imported):
            kept.cache_clear()
        return key(tmp_path / "a.yaml", [])

    before = now()
    (package / "types.py").write_text("A = 2")
    assert now() == before
    (package / "inner" / "two.py").write_text("WEIGHT = 2")
    assert now() != before


def test_models_inside_packages_are_read_and_sentences_with_colons_are_not(repository: Path) -> None:
    files = list(results_keys.models_of({"mmalign:report/templates", "Say: what is this?", "nopackage:x", "plain"}))
    assert {path.name for path in files} == {"report.css", "report.html"}


def test_code_means_the_same_with_another_docstring(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.py" for name in "abc")
    one.write_text('"""Doc."""\ndef f(x):\n    """Doc."""\n    return x  # so\n')
    two.write_text('def f(x):\n    "Other."\n\n    return (x)\n')
    three.write_text("def f(x):\n    return -x\n")
    assert meaning(one) == meaning(two) != meaning(three)


def test_a_run_that_fails_is_told_and_the_others_are_made(repository: Path) -> None:
    def broken(root: Path, run: Run, name: str) -> Mapping[str, Any]:
        if "a.yaml" in run.recipe.command(run.seed) and run.seed == 1:
            raise UserError("it broke")
        return Trained()(root, run, name)

    assert update(Results(repository, broken), "gain") == ["it broke"]
    assert rows(repository)["It rises"][2:4] == ["0.20 ± 0.10", "2 of 3"]
    assert made(repository, "gain") == ["mmalign train a.yaml trainer.seed=1"]


def test_results_are_kept_as_small_json_files_by_config_and_seed(repository: Path) -> None:
    made(repository, "other")
    (file,) = (repository / "docs/results").glob("*.json")
    assert file.name.startswith("b-")
    assert set(json.loads(file.read_text())) == {"command", "key", "mmalign", "seconds", "evaluations"}


def test_minutes_are_those_of_the_fastest_seed_of_the_claims_own_runs(repository: Path) -> None:
    made(repository)
    for name, seconds in {"a-*-0": 300, "a-*-1": 90, "a-*-2": 120, "b-*": 30}.items():
        for file in (repository / "docs/results").glob(f"{name}.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))
    made(repository, render=True)
    assert [rows(repository)[claim][4] for claim in ("It rises", "A beats B")] == ["1 min 30 s"] * 2


def test_seeds_go_where_overrides_say() -> None:
    claim = claimed(overrides=["trainer.seed={seed}", "data.seed={seed}", "rewards=[{type: x}]"])
    assert claim.given(2) == ["trainer.seed=2", "data.seed=2", "rewards=[{type: x}]"]
    assert claim.command(2).endswith("data.seed=2 'rewards=[{type: x}]'")


def claimed(**given: Any) -> Claim:
    return Claim.model_validate({"name": "n", "claim": "c", "config": "a.yaml", "number": "rewards.r.n", **given})


def test_numbers_can_be_derived_and_come_from_a_stage() -> None:
    reward = {"before": {"mean": 0.4}, "difference": {"mean": -0.1}, "win_rate": 0.3, "ties": 0.5, "n": None}
    found = {"1-ppo": {"rewards": {"r": reward}}}
    assert number(claimed(stage="1-ppo", number="rewards.r.relative_change"), found) == pytest.approx(-0.25)
    assert number(claimed(stage="1-ppo", number="rewards.r.decided_win_rate"), found) == pytest.approx(0.1)
    assert shown(claimed(), [[float("nan")]]) == "unscored"
    with pytest.raises(UserError, match="no 's' here; there is r"):
        number(claimed(stage="1-ppo", number="rewards.s.n"), found)


def test_what_a_run_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{"rewards": {}}')
    assert results_table.measured(tmp_path) == {"rewards": {}}
    assert results_table.measured(tmp_path / "nowhere") == {}


def test_the_committed_claims_are_well_formed_and_their_configs_exist() -> None:
    results = Results(results_table.ROOT, Trained())
    for claim in results.claims:
        for recipe in claim.recipes:
            assert (results_table.ROOT / recipe.config).is_file(), claim.name
            key(results_table.ROOT / recipe.config, recipe.given(0))
