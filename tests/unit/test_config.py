"""A config is strict, knows where each key stands, and tells all its faults at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmalign import UserError, document
from mmalign.config import Config, load

MINIMAL = """\
name: small
model: {type: tiny, size: 3}
data: prompts
objective: dpo
trainer:
  steps: 5
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str = MINIMAL, name: str = "small.yaml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def refusal(*arguments, **keywords) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(*arguments, **keywords)
    return str(caught.value).splitlines()


# ---- what a config means --------------------------------------------------------------------------------------------


def test_a_minimal_config_has_every_default(write):
    config = load(write()).config
    assert (config.model.type, config.model.options) == ("tiny", {"size": 3})
    assert (config.data.type, config.data.options) == ("prompts", {})
    assert (config.trainer.batch_size, config.trainer.learning_rate, config.trainer.betas) == (8, 1e-5, (0.9, 0.999))
    assert (config.collect, config.evaluation.prompts, config.folder) == (None, None, "runs")


def test_yaml_is_1_2(write):
    model = "model: {type: tiny, a: 1e-4, b: on, c: no, d: 2024-01-01, e: 010, f: ~, g: 1:30, h: true}"
    options = load(write(MINIMAL.replace("model: {type: tiny, size: 3}", model))).config.model.options
    assert options == {"a": 1e-4, "b": "on", "c": "no", "d": "2024-01-01", "e": 10, "f": None, "g": "1:30", "h": True}
    assert isinstance(options["a"], float)


def test_precision_no_is_a_word(write):
    assert load(write(), ["trainer.precision=no"]).config.trainer.precision == "no"


def test_a_reward_is_named_by_its_type_unless_it_has_a_name(write):
    overrides = ["rewards=[clip, {type: clip, name: other, weight: 2, model: x}]", "evaluation.prompts=p"]
    rewards = load(write(), overrides).config.rewards
    assert [(reward.label, reward.weight, reward.options) for reward in rewards] == [
        ("clip", 1.0, {}),
        ("other", 2.0, {"model": "x"}),
    ]


@pytest.mark.parametrize(
    ("written", "type_", "options"),
    [
        ("prompts.txt", "prompts", {"path": "prompts.txt"}),
        ("./here", "prompts", {"path": "./here"}),
        ("shapes-prompts", "shapes-prompts", {}),
        ("{type: prompts, path: x}", "prompts", {"path": "x"}),
    ],
)
def test_evaluation_prompts_are_a_file_or_a_part(write, written, type_, options):
    prompts = load(write(), [f"evaluation.prompts={written}"]).config.evaluation.prompts
    assert (prompts.type, prompts.options) == (type_, options)


def test_plugin_files_are_relative_to_the_config(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert load(write(), ["plugins=[./sharp.py]"]).config.plugins == [str(tmp_path.resolve() / "sharp.py")]


def test_a_config_does_not_change(write):
    with pytest.raises(ValidationError):
        load(write()).config.trainer.steps = 3


def test_what_a_run_keeps_reads_back_as_the_same_config(write, tmp_path):
    overrides = ["rewards=[clip]", "collect={}", "evaluation={prompts: p.txt, rewards: [clip, a]}", "plugins=[x.py]"]
    config = load(write(), overrides).config
    document.dump(config.plain(), tmp_path / "kept.yaml")
    assert load(tmp_path / "kept.yaml").config == config


# ---- places and overrides -------------------------------------------------------------------------------------------


def test_every_key_has_its_place(write):
    path = write()
    where = load(path, ["objective.beta=1", "collect.samples_per_prompt=3"]).where
    assert where("trainer.steps") == f"{path}:6"
    assert where("model.size") == f"{path}:2"
    assert where("model.not.there") == f"{path}:2"
    assert where("objective") == f"{path}:4"
    assert where("objective.beta") == "override 'objective.beta=1'"
    assert where("collect.pairing") == "override 'collect.samples_per_prompt=3'"


def test_a_replaced_value_takes_its_places_with_it(write):
    text = MINIMAL + "rewards:\n  - {type: clip, scale: 3}\n"
    assert load(write(text), ["rewards=[{type: clip, scale: 4}]"]).where("rewards.0.scale").startswith("override")
    assert load(write(text), ["rewards.0.scale=4"]).where("rewards.0.type") == f"{write(text)}:8"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("trainer.steps=50", lambda c: c.trainer.steps == 50),
        ("trainer.learning_rate=1", lambda c: c.trainer.learning_rate == 1.0),
        ("trainer.betas=[0, 0.5]", lambda c: c.trainer.betas == (0.0, 0.5)),
        ("trainer.checkpoint_every=", lambda c: c.trainer.checkpoint_every is None),
        ("objective.beta=500", lambda c: c.objective.type == "dpo" and c.objective.options == {"beta": 500}),
        ("objective=sft", lambda c: c.objective.type == "sft"),
        ("model.adapter.rank=8", lambda c: c.model.options == {"size": 3, "adapter": {"rank": 8}}),
        ("rewards=[{type: blueness}]", lambda c: c.rewards[0].type == "blueness"),
        ("collect.samples_per_prompt=3", lambda c: c.collect.samples_per_prompt == 3),
        ("sampling.steps=7", lambda c: c.sampling == {"steps": 7}),
        ("name=a=b", lambda c: c.name == "a=b"),
        ("name=2024-01-01", lambda c: c.name == "2024-01-01"),
    ],
)
def test_an_override_reaches_every_key(write, override, read):
    assert read(load(write(), [override]).config)


def test_the_last_override_wins(write):
    assert load(write(), ["trainer.steps=1", "trainer={steps: 2}", "trainer.steps=3"]).config.trainer.steps == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps", "override 'steps': not of the form key=value"),
        ("=3", "override '=3': not of the form key=value"),
        ("trainer.stepz=3", "override 'trainer.stepz=3': trainer.stepz: unknown key, did you mean 'steps'?"),
        ("trainr.steps=3", "override 'trainr.steps=3': trainr: unknown key, did you mean 'trainer'?"),
        ("x=[", "override 'x=[': not valid YAML"),
        ("trainer.steps.x=3", "trainer.steps.x: 'steps' is 5, which holds no keys"),
        ("rewards.0.weight=3", "override 'rewards.0.weight=3': rewards: must be a list, got a mapping"),
        ("trainer.steps=1.0", "must be a whole number, got 1.0"),
        ("model={type: a, type: b}", "model.type: given twice"),
    ],
)
def test_a_wrong_override_is_named(write, override, words):
    (line,) = refusal(write(), [override])
    assert words in line


def test_an_index_outside_a_list_is_named(write):
    (line,) = refusal(write(), ["rewards=[clip]", "rewards.1.weight=3"])
    assert line == (
        "override 'rewards.1.weight=3': rewards.1.weight: '1' is no place in a list of 1, which counts from 0"
    )


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_all_faults_are_told_at_once_in_the_order_of_their_places(write):
    path = write(
        "model: 3\n"
        "data: prompts\n"
        "objective: dpo\n"
        "samplin: {}\n"
        "trainer:\n"
        "  lerning_rate: 1e-4\n"
        "  steps: abc\n"
        "  precision: fp61\n"
        "  batch_size: 4\n"
        "  batch_size: 5\n"
    )
    assert refusal(path, ["trainer.seed=-1", "nonsense"]) == [
        f"{path}:1: name: missing, and it has no default",
        f"{path}:1: model: must be a name or a mapping with `type`, got 3",
        f"{path}:4: samplin: unknown key, did you mean 'sampling'?",
        f"{path}:6: trainer.lerning_rate: unknown key, did you mean 'learning_rate'?",
        f"{path}:7: trainer.steps: must be a whole number, got 'abc'",
        f"{path}:8: trainer.precision: must be 'no' or 'bf16', got 'fp61'",
        f"{path}:10: trainer.batch_size: given twice, first at {path}:9",
        "override 'trainer.seed=-1': trainer.seed: must be at least 0, got -1",
        "override 'nonsense': not of the form key=value, for example trainer.steps=50",
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.steps=-1", "at least 0, got -1"),
        ("trainer.steps=0", "with 0 nothing happens"),
        ("evaluation.guidance={type: a, rewards: [r]}", "nothing to lead: add evaluation.prompts"),
        ("evaluation={prompts: p, guidance: {type: a, rewards: [r, r]}}", "2 rewards are called 'r'"),
        ("trainer.steps=true", "a whole number, got true"),
        ("trainer.steps='3'", "a whole number, got '3'"),
        ("trainer.steps=", "a whole number, got null"),
        ("trainer.batch_size=0", "at least 1"),
        ("trainer.learning_rate=0", "above 0"),
        ("trainer.learning_rate=true", "a number, got true"),
        ("trainer.learning_rate=.nan", "finite"),
        ("trainer.learning_rate=.inf", "finite number, got .inf"),
        ("trainer.weight_decay=-1", "at least 0"),
        ("trainer.betas=[1, 0.9]", "trainer.betas.0: must be below 1"),
        ("trainer.betas=[0.9]", "trainer.betas.1: missing"),
        ("trainer.betas=[0.9, 0.9, 0.9]", "at most 2 long"),
        ("trainer.max_grad_norm=0", "above 0"),
        ("trainer.checkpoint_every=0", "at least 1"),
        ("trainer.keep_checkpoints=0", "at least 1"),
        ("trainer.gradient_checkpointing=1", "true or false, got 1"),
        ("trainer.optimizer=adam", "must be 'adamw' or 'adafactor', got 'adam', did you mean 'adamw'?"),
        ("trainer.seed=4294967296", "below 4294967296"),
        ("trainer=5", "must be a mapping, got 5"),
        ("collect.samples_per_prompt=1", "at least 2"),
        ("evaluation.every=0", "at least 1"),
        ("evaluation.grid=-1", "at least 0"),
        ("name=5", "must be text, got 5; put it in quotes"),
        ("name=a/b", "without slashes, got 'a/b'"),
        ("name=..", "without slashes"),
        ("name=''", "without slashes"),
        ("model={path: x}", "model.type: missing"),
        ("rewards=clip", "must be a list, got 'clip'"),
        ("rewards=[{type: a, weight: x}]", "rewards.0.weight: must be a number, got 'x'"),
        ("rewards=[clip, clip]", "2 rewards are called 'clip': give each a `name`"),
        ("evaluation.rewards=[clip]", "nothing to score: add evaluation.prompts"),
        ("evaluation={prompts: p, rewards: [{type: a, role: heldout}]}", "did you mean 'held-out'?"),
        ("plugins=[3]", "plugins.0: must be text"),
    ],
)
def test_values_are_checked_in_plain_words(write, override, words):
    message = "\n".join(refusal(write(), [override]))
    assert words in message
    for jargon in ("Input should", "validation", "pydantic", "type="):
        assert jargon not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- name\n", "must be a mapping of keys"),
        ("name: x\n\tmodel: y\n", ":2: not valid YAML"),
        ("trainer:\n\tsteps: 1\n", "tabs cannot indent, use spaces"),
        ("name: [\n", "not valid YAML"),
        ("name: a\n---\nname: b\n", "not valid YAML"),
        ("name: &x [*x]\n", "an alias holds itself"),
        ("a: 1\nname: !python x\n", ":2: not valid here: the tag !python"),
        ("name: !!int x\n", ":1: 'x' is no int"),
    ],
)
def test_a_file_that_is_no_config_is_explained(write, text, words):
    message = "\n".join(refusal(write(text)))
    assert words in message
    assert "small.yaml" in message


def test_a_file_that_cannot_be_read_is_explained(write, tmp_path):
    write()
    assert refusal(tmp_path / "smal.yaml") == [f"no such file: {tmp_path}/smal.yaml, did you mean 'small.yaml'?"]
    assert "is a folder" in refusal(tmp_path)[0]
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(tmp_path / "bytes.yaml")[0]


def test_a_tolerant_load_goes_on_without_the_faulty_keys(write):
    loaded = load(write(), ["trainer.steps=-1", "trainer.batch_size=x", "evaluation.evry=2"], tolerant=True)
    assert {key for key, _ in loaded.faults} == {"trainer.steps", "trainer.batch_size", "evaluation.evry"}
    assert loaded.config.trainer.batch_size == 8
    lines = str(loaded.refusal([*loaded.faults, ("model.size", "too small")])).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "model.size",
        "trainer.steps",
        "trainer.batch_size",
        "evaluation.evry",
    ]


@pytest.mark.parametrize("override", ["nonsense", "plugins=[3]", "model=3"])
def test_a_tolerant_load_refuses_what_it_cannot_mend(write, override):
    refusal(write(), [override], tolerant=True)


# ---- writing --------------------------------------------------------------------------------------------------------

TEXTS = ["on", "no", "null", "1e-4", "2024-01-01", "=", "<<", "~", "0x1", "1_000", "- a", "a: b", "#", ".inf", "", "%a"]
CHARACTERS = "anoy019eE-+.:, #'\"\\\n\t[]{}&*!|>%@`é"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    st.text(CHARACTERS, max_size=8),
    st.sampled_from(TEXTS),
)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab-"), inner), max_leaves=6
)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["a", "b", "on", "null", "1"]), PLAIN, max_size=4))
def test_plain_data_reads_back_equal(tmp_path_factory, plain):
    path = tmp_path_factory.mktemp("dump") / "x.yaml"
    document.dump(plain, path)
    back = document.read(path)
    assert back == plain
    assert json.dumps(back) == json.dumps(plain)  # 1, 1.0 and true are equal in Python, and the order of keys counts
    assert [file.name for file in path.parent.iterdir()] == ["x.yaml"]


def test_the_schema_tells_editors_what_a_config_may_hold():
    schema = Config.model_json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    assert set(schema["required"]) == {"name", "model", "data", "objective", "trainer"}
    assert {"type": "string"} in schema["$defs"]["Part"]["anyOf"]
    trainer = schema["$defs"]["Trainer"]
    assert trainer["additionalProperties"] is False
    assert all(entry["description"] for entry in trainer["properties"].values())
