"""A part's signature is its schema: what may be given, of which type, and what holds otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from mmalign import Objective, ObjectiveSpec, RewardSpec, UserError, options

if TYPE_CHECKING:
    from nowhere import Unseen


@dataclass(frozen=True)
class Adapter:
    rank: int = 8
    targets: list[str] = field(default_factory=list)


class Noise(BaseModel):
    scale: float = 1.0


class Rich:
    """A part with options of every kind. All annotations are strings: this file postpones them."""

    def __init__(
        self,
        path: Path,
        adapter: Adapter | None = None,
        noise: Noise = Noise(),  # noqa: B008 - what a plugin's author would write
        size: tuple[int, int] = (4, 4),
        mode: Literal["fast", "slow"] = "fast",
        power: Annotated[float, Field(gt=0)] = 1.0,
        either: int | str = 1,
        anything=None,
        *args: int,
        **kwargs: int,
    ):
        self.given = {"path": path, "adapter": adapter, "size": size, "noise": noise}


class Inherits(Rich):
    pass


def spec(build: Any, name: str = "part") -> RewardSpec:
    return RewardSpec(name, build)


def faults(build: Any, given: dict[str, Any]) -> dict[str, str]:
    return dict(options.check(spec(build), given))


@pytest.mark.parametrize("build", [Rich, Inherits, partial(Rich, mode="slow")])
def test_plain_options_become_the_annotated_types(build):
    given = {"path": "a/b", "adapter": {"rank": 2}, "size": [1, 2], "noise": {"scale": 3}, "power": 2}
    assert options.check(spec(build), given) == []
    made = build(**options.parsed(spec(build), given))
    assert made.given == {"path": Path("a/b"), "adapter": Adapter(2), "size": (1, 2), "noise": Noise(scale=3.0)}


def test_every_default_is_completed_as_plain_data():
    assert options.complete(spec(Rich), {"path": "x", "adapter": {}}) == {
        "path": "x",
        "adapter": {"rank": 8, "targets": []},
        "noise": {"scale": 1.0},
        "size": [4, 4],
        "mode": "fast",
        "power": 1.0,
        "either": 1,
        "anything": None,
    }


@pytest.mark.parametrize(
    ("given", "key", "message"),
    [
        ({}, "path", "missing, and it has no default"),
        ({"path": 3}, "path", "must be text, got 3; put it in quotes"),
        ({"pth": "x"}, "pth", "unknown key, did you mean 'path'?"),
        ({"zzz": 1}, "zzz", "unknown key; known: path, adapter, noise, size, mode, power, either, anything"),
        ({"args": [1]}, "args", "unknown key"),
        ({"kwargs": {}}, "kwargs", "unknown key"),
        ({"adapter": {"rnak": 3}}, "adapter.rnak", "unknown key, did you mean 'rank'?"),
        ({"adapter": {"rank": "8"}}, "adapter.rank", "must be a whole number, got '8'"),
        ({"adapter": {"rank": True}}, "adapter.rank", "must be a whole number, got true"),
        ({"adapter": {"targets": ["a", 1]}}, "adapter.targets.1", "must be text, got 1"),
        ({"adapter": 8}, "adapter", "must be a mapping, got 8"),
        ({"noise": {"scal": 1}, "path": "x"}, None, None),
        ({"size": [1]}, "size.1", "missing"),
        ({"mode": "fats"}, "mode", "must be 'fast' or 'slow', got 'fats', did you mean 'fast'?"),
        ({"power": 0}, "power", "must be above 0, got 0"),
        ({"either": 1.5}, "either", "must be a whole number or text, got 1.5"),
        ({"either": None}, "either", "must be a whole number or text, got null"),
    ],
)
def test_each_fault_is_one_sentence_about_one_key(given, key, message):
    found = faults(Rich, {"path": "x", **given} if given else given)
    if key is None:  # `Noise` itself allows what it does not know
        assert found == {}
    else:
        assert list(found) == [key]
        assert message in found[key]


def test_all_faults_come_together():
    assert set(faults(Rich, {"size": 3, "mode": "x", "unknown": 1})) == {"path", "size", "mode", "unknown"}


@pytest.mark.parametrize("name", ["model_config", "schema", "copy", "json", "self", "model", "validate", "_private"])
def test_an_option_may_have_any_name(name):
    namespace: dict[str, Any] = {}
    exec(f"def build({name}: int = 1): return {name}", namespace)
    assert options.complete(spec(namespace["build"]), {}) == {name: 1}
    assert namespace["build"](**options.parsed(spec(namespace["build"]), {name: 2})) == 2
    assert faults(namespace["build"], {name: "x"}) == {name: "must be a whole number, got 'x'"}


def test_a_parameter_without_annotation_takes_anything():
    def build(value, other=3):
        return value

    for value in (1, "a", None, [1, {"b": 2}]):
        assert options.complete(spec(build), {"value": value}) == {"value": value, "other": 3}


def test_a_type_that_only_type_checkers_import_takes_anything():
    def build(value: Unseen, size: int = 1):
        return value

    assert options.complete(spec(build), {"value": "x"}) == {"value": "x", "size": 1}
    assert faults(build, {"value": "x", "size": "y"}) == {"size": "must be a whole number, got 'y'"}


def test_none_is_allowed_where_it_is_the_default():
    def build(size: int = None):  # noqa: RUF013 - what many authors write
        return size

    assert faults(build, options.complete(spec(build), {})) == {}
    assert "size" in faults(build, {"size": "x"})


def test_a_default_that_no_config_can_hold_is_left_to_the_part():
    marker = object()

    def build(size: int = 1, how: Any = marker):
        return how

    assert options.complete(spec(build), {}) == {"size": 1}
    assert build(**options.parsed(spec(build), {"size": 1})) is marker


@pytest.mark.parametrize("build", [object, len, Adapter, Noise])
def test_whatever_can_be_called_has_a_schema(build):
    options.schema(spec(build))


def test_dataclasses_and_models_are_parts_too():
    assert options.complete(spec(Adapter), {"rank": 2}) == {"rank": 2, "targets": []}
    assert faults(Noise, {"scale": "x"}) == {"scale": "must be a number, got 'x'"}
    assert options.complete_callable(Adapter, {}) == {"rank": 8, "targets": []}
    assert options.check_callable(Adapter, {"ranks": 1}) == [("ranks", "unknown key, did you mean 'rank'?")]


def test_wrong_options_are_never_completed():
    with pytest.raises(UserError, match="reward 'part': rank: must be a whole number"):
        options.complete(spec(Adapter), {"rank": "x"})
    with pytest.raises(UserError, match="reward 'part': rank: must be a whole number"):
        options.parsed(spec(Adapter), {"rank": "x"})


@pytest.mark.parametrize("build", ["mmalign.nowhere:Part", "mmalign.errors:Nothing"])
def test_a_part_that_cannot_be_imported_is_named(build):
    with pytest.raises(UserError, match=f"reward 'part' cannot be imported \\({build}\\)"):
        options.check(spec(build), {})


# ---- objectives -----------------------------------------------------------------------------------------------------


def loss(chosen: list[float], *, beta: float = 0.1, shared: int = 1) -> tuple[Any, ...]:
    return chosen, beta, shared


def terms(parts: Any, batch: Any, rng: Any, *, dropout: float = 0.0, shared: int = 1) -> dict[str, Any]:
    return {"batch": batch, "dropout": dropout, "shared": shared}


OBJECTIVE = ObjectiveSpec("both", Objective(loss, terms))


def test_an_objectives_options_are_the_keywords_of_both_functions():
    assert options.complete(OBJECTIVE, {"beta": 5000}) == {"dropout": 0.0, "shared": 1, "beta": 5000.0}
    assert dict(options.check(OBJECTIVE, {"chosen": []})) == {"chosen": "unknown key; known: dropout, shared, beta"}


def test_each_function_gets_the_options_that_it_has():
    bound = options.bind_objective(OBJECTIVE, {"beta": 2, "dropout": 0.5, "shared": 3})
    assert bound.loss(chosen=[1.0]) == ([1.0], 2.0, 3)
    assert bound.terms(None, "batch", None) == {"batch": "batch", "dropout": 0.5, "shared": 3}


def test_a_derived_objective_has_its_own_default():
    derived = ObjectiveSpec("derived", Objective(partial(loss, beta=5000.0), terms))
    assert options.complete(derived, {})["beta"] == 5000.0
    assert options.bind_objective(derived, {}).loss(chosen=[])[1] == 5000.0
    assert options.bind_objective(derived, {"beta": 1}).loss(chosen=[])[1] == 1.0


def misfits(*, beta: float, dropout: float):
    if dropout > beta:
        yield "dropout", f"{dropout:g} is above beta, {beta:g}"


def test_options_that_do_not_go_together_are_a_fault_and_nothing_is_bound():
    both = ObjectiveSpec("both", Objective(loss, terms, misfits=misfits))
    assert options.check(both, {"beta": 0.25, "dropout": 0.5}) == [("dropout", "0.5 is above beta, 0.25")]
    assert options.check(both, {"beta": 1, "dropout": 0.5}) == []
    assert [key for key, _ in options.check(both, {"beta": "much"})] == ["beta"]
    assert options.complete(both, {"beta": 1}) == options.complete(OBJECTIVE, {"beta": 1})
    with pytest.raises(UserError, match=r"objective 'both': dropout: 0\.5 is above beta"):
        options.bind_objective(both, {"beta": 0.25, "dropout": 0.5})


# ---- for people -----------------------------------------------------------------------------------------------------


def test_options_are_described_with_type_and_default():
    described = {option.name: option for option in options.described(spec(Rich))}
    assert described["path"] == options.Option("path", "pathlib.Path", None, required=True)
    assert described["mode"] == options.Option("mode", "Literal['fast', 'slow']", "fast", required=False)
    assert described["adapter"].default is None
    assert "Adapter" in described["adapter"].type
    assert not {"args", "kwargs", "self"} & set(described)


VALUES = st.fixed_dictionaries(
    {"path": st.text(max_size=5)},
    optional={
        "adapter": st.none()
        | st.fixed_dictionaries({}, optional={"rank": st.integers(), "targets": st.lists(st.text(max_size=3))}),
        "size": st.lists(st.integers(), min_size=2, max_size=2),
        "mode": st.sampled_from(["fast", "slow"]),
        "power": st.floats(min_value=1e-3, max_value=1e3) | st.integers(1, 9),
        "either": st.integers(-9, 9) | st.text(max_size=3),
        "anything": st.none() | st.booleans() | st.lists(st.integers(), max_size=2),
    },
)


@settings(max_examples=60)
@given(VALUES)
def test_completing_is_idempotent_and_builds_the_same(values):
    once = options.complete(spec(Rich), values)
    assert json.loads(json.dumps(once)) == once
    assert options.complete(spec(Rich), once) == once
    assert options.parsed(spec(Rich), once) == options.parsed(spec(Rich), values)
