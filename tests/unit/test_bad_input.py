"""What nothing can be learned from is an error that says so, or is counted and left out; it is never a NaN that nobody sees."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from mmalign import UserError, options, plugins
from mmalign.builtin import held_out
from mmalign.compose import choose
from mmalign.config import load
from mmalign.data.collect import ranked
from mmalign.data.feedback import TextPreferences
from mmalign.data.sources import LabelledRows, Pairs, Prompts, SampleRows, ScoredRows
from mmalign.data.texts import TextPairs, TextPrompts, TextSamples, TextScored
from mmalign.errors import BadRow
from mmalign.feeds import Rows, summary
from mmalign.records import LogProbs, Prompt, Scores
from unit import toy
from unit.test_every_objective import CELLS, FITTING, ON_ROLLOUTS, SPECS, scored, tokens
from unit.toy import rng

NAN, INF = float("nan"), float("inf")


# ---- rows

GOOD = {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}
PICTURES = {"prompt": "a cat", "chosen": "1.png", "rejected": "2.png"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rejected": "A cat."}, "row 2: both sides are the same"),
        ({"rejected": "  "}, "row 2: an answer is empty"),
        ({"chosen": ""}, "row 2: an answer is empty"),
    ],
)
def test_answers_that_tell_nothing_are_named_and_may_be_skipped(write, changed, told):
    rows = TextPairs(write(GOOD, {**GOOD, **changed}))
    with pytest.raises(BadRow, match=told):
        rows[1]
    feed = Rows(rows, 2, seed=0, skip_bad=True)
    assert next(feed)["chosen"] == ["A cat."] * 2
    assert told.partition(": ")[2] in feed.skipped[1]


def test_an_empty_demonstration_is_named(write):
    with pytest.raises(BadRow, match="row 1: an answer is empty"):
        TextSamples(write({"prompt": "What?", "completion": "\n"}))[0]


def test_a_picture_against_itself_is_named(write):
    rows = Pairs(write(PICTURES, {**PICTURES, "rejected": "1.png"}))
    assert rows[0]["rejected"].name == "2.png"
    with pytest.raises(BadRow, match=r"row 2: both sides are 1\.png, so neither is better"):
        rows[1]


@pytest.mark.parametrize(("source", "good"), [(Pairs, PICTURES), (TextPairs, GOOD)])
def test_pairs_that_all_tie_are_refused(write, source, good):
    with pytest.raises(UserError, match="holds no pair with a preference"):
        source(write({**good, "scores": [1, 1]}, {**good, "scores": [0.5, 0.5]}))


@pytest.mark.parametrize("tie", [{"scores": [1, 1]}, {"strength": 0}, {"scores": [0.5, 0.5], "strength": 3}])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_answers_that_tie_are_left_out_and_rows_keep_their_numbers(write, tmp_path, tie, suffix):
    better = {"scores": [1, 0.5], "strength": 1}
    told = {name: better[name] for name in tie}
    path = write({**GOOD, **told}, {**GOOD, **tie, "chosen": "A cow."}, {**GOOD, **told, "chosen": "A dog."})
    if suffix == ".parquet":
        import datasets

        path, rows = str(tmp_path / "rows.parquet"), datasets.Dataset.from_json(path)
        rows.to_parquet(path)
    found = TextPairs(path)
    assert (len(found), found[0]["chosen"]) == (2, "A cat.")
    with pytest.raises(BadRow, match="row 3: both sides are the same"):
        found[1]
    assert len(TextPreferences(path)) == 3


SAID = {"prompt": "What?", "completion": "A cat.", "score": 1}
DRAWN = {"prompt": "a cat", "sample": "1.png", "score": 1, "label": 1}
NO_NUMBER = r"holds .*, which is no finite number"


@pytest.mark.parametrize(
    ("source", "good", "changed", "told"),
    [
        (TextScored, SAID, {"score": NAN}, f"'score' {NO_NUMBER}"),
        (TextScored, SAID, {"score": None}, f"'score' {NO_NUMBER}"),
        (TextScored, SAID, {"score": "good"}, f"'score' {NO_NUMBER}"),
        (TextScored, {**SAID, "rivals": [1, 2]}, {"rivals": [1, None]}, f"'rivals' {NO_NUMBER}"),
        (TextScored, {**SAID, "rivals": [1, 2]}, {"rivals": []}, "`rivals` holds the scores of all samples"),
        (TextScored, {**SAID, "rivals": [1, 2]}, {"rivals": None}, "only some rows have 'rivals'"),
        (TextSamples, SAID, {"completion": None}, "no completion"),
        (TextPrompts, SAID, {"prompt": [{"role": "user", "content": None}]}, "neither a text nor a list of messages"),
        (TextPrompts, SAID, {"prompt": None}, "neither a text nor a list of messages"),
        (ScoredRows, DRAWN, {"score": -INF}, f"'score' {NO_NUMBER}"),
        (ScoredRows, DRAWN, {"rivals": [1, 2]}, "only some rows have 'rivals'"),
        (LabelledRows, DRAWN, {"label": "good"}, f"'label' {NO_NUMBER}"),
        (LabelledRows, DRAWN, {"label": NAN}, f"'label' {NO_NUMBER}"),
        (SampleRows, DRAWN, {"sample": None}, "no sample"),
        (SampleRows, DRAWN, {"prompt": 5}, "column 'prompt' must hold text, got 5"),
        (TextPairs, {**GOOD, "strength": 1}, {"strength": NAN}, f"'strength' {NO_NUMBER}"),
        (TextPairs, {**GOOD, "strength": 1}, {"strength": "much"}, f"'strength' {NO_NUMBER}"),
        (TextPairs, {**GOOD, "strength": 1}, {"strength": None}, "only some rows have 'strength'"),
        (TextPairs, GOOD, {"strength": 1}, "only some rows have 'strength'"),
        (TextPairs, {**GOOD, "scores": [1, 0]}, {"scores": [1]}, "`scores` holds two numbers"),
        (TextPairs, {**GOOD, "scores": [1, 0]}, {"scores": ["a", "b"]}, f"'scores' {NO_NUMBER}"),
        (Pairs, {**PICTURES, "scores": [1, 0]}, {"scores": [1]}, "`scores` holds two numbers"),
        (Pairs, {**PICTURES, "scores": [1, 0]}, {"scores": [NAN, 0]}, f"'scores' {NO_NUMBER}"),
        (Pairs, PICTURES, {"strength": 1}, "only some rows have 'strength'"),
        (Pairs, PICTURES, {"prompt": 5}, "column 'prompt' must hold text, got 5"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_with_its_row(write, source, good, changed, told):
    path = write(good, {**good, **changed})
    with pytest.raises(BadRow, match=f"rows.jsonl: row 2: .*{told}"):
        source(path)[1]


@pytest.mark.parametrize(("source", "good", "column"), [(Pairs, PICTURES, "rejected"), (SampleRows, DRAWN, "sample")])
def test_a_later_row_without_a_column_is_named(write, source, good, column):
    rows = source(write(good, {name: cell for name, cell in good.items() if name != column}))
    with pytest.raises(BadRow, match=f"row 2: no {column}"):
        rows[1]


def test_a_row_of_prompts_that_holds_none_is_named(write):
    with pytest.raises(UserError, match="row 2 has no column 'prompt'"):
        Prompts(write({"prompt": "a cat"}, {"prompt": None}))


# ---- rows that are not trained on


def told_of(name: str, **columns) -> dict[str, float]:
    """What is measured of five rows, two at a time."""
    made, _ = tokens()
    rows = [
        {"prompt": Prompt("ab"), "sample": "abcde"[: i + 1], **{k: v[i] for k, v in columns.items()}} for i in range(5)
    ]
    return held_out.measure(replace(made, objective=options.bind_objective(SPECS[name], {}), held_out=rows), 2, 0)


def test_rows_with_more_or_fewer_rivals_are_measured_together():
    scores = [0.0, 1.0, 2.0, 3.0, 4.0]
    few, many = ([[score, *others] for score in scores] for others in ([9.0], [9.0, -1e9]))
    one, other = (told_of("rwr", score=scores, rivals=[*few[:2], *rows[2:]]) for rows in (few, many))
    assert one["loss"] > 0
    assert one["loss"] != other["loss"]  # a rival that is no better halves the mean that it is compared with
    assert told_of("rwr", score=scores)["loss"] > 0  # the rows of a batch are rivals, and the last batch is another one


def test_no_row_is_left_alone_where_rows_are_compared():
    assert held_out._pieces(5, 2) == [range(2), range(2, 5)]
    assert held_out._pieces(4, 2) == [range(2), range(2, 4)]
    assert held_out._pieces(2, 1) == [range(1), range(1, 2)]
    assert held_out._pieces(1, 8) == [range(1)]
    assert 0 < told_of("kto", label=[1, 0, 1, 0, 1])["loss"] < 1


# ---- scores


@pytest.mark.parametrize("scores", [(1.0, 1.0, 1.0), (NAN, NAN, 2.0), (INF, 1.0, -INF), (NAN, INF)])
def test_samples_that_tie_or_have_no_score_make_no_pair(scores):
    assert ranked(torch.tensor(scores)) == []


def test_a_pair_is_made_of_what_has_a_score():
    assert ranked(torch.tensor([INF, 0.0, NAN, 2.0, -INF])) == [(3, 1)]


SCORES = {
    "no scores": (NAN, NAN, NAN, NAN),
    "some": (NAN, 1.0, INF, -INF),
    "one a group": (NAN, 1.0, 2.0, NAN),
    "ties": (1.0, 1.0, 0.5, 0.5),
}


@pytest.mark.parametrize(("name", "process"), ON_ROLLOUTS)
@pytest.mark.parametrize("case", SCORES)
def test_rollouts_without_a_usable_score_move_no_weight_to_nowhere(name, process, case):
    """Whatever the scores, loss, metrics and gradient are finite; without any score at all they are 0."""
    made, experience = scored(process)
    if "values" in SPECS[name].needs:
        made.policy.add_critic()
    experience = replace(experience, scores=Scores(torch.tensor(SCORES[case])))
    required = {option.name: 4 for option in options.described(SPECS[name]) if option.required}
    objective = options.bind_objective(SPECS[name], required)
    batch = {"rollout": experience.rollout, **objective.advantages(made, experience)}
    found = objective.loss(**objective.terms(made, batch, rng()))
    slope = toy.gradient(made, found.values.mean())
    assert found.values.isfinite().all()
    assert slope.isfinite().all()
    assert all(value.isfinite() for value in found.metrics.values())
    if case == "no scores":
        assert slope.abs().max() < 1e-12
    with warnings.catch_warnings(action="error"):
        told = summary(experience)
    assert told["reward/std"].isnan() == (case == "no scores")
    assert told["rollout/unscored"] == sum(not torch.tensor(score).isfinite() for score in SCORES[case])
    assert told["rollout/tied_groups"] == 2


def test_units_of_which_none_counts_have_a_sum_and_a_mean():
    values = torch.randn(2, 3, generator=rng()).requires_grad_()
    nothing = LogProbs(values, torch.zeros(2, 3))
    for found in (nothing.sum(), nothing.mean(), nothing.minus(nothing).reduced("mean")):
        assert found.tolist() == [0.0, 0.0]
    (slope,) = torch.autograd.grad(nothing.mean().sum(), values)
    assert slope.abs().sum() == 0


# ---- options

BETAS = [name for name, spec in SPECS.items() if "beta" in {option.name for option in options.described(spec)}]
MAY_BE_0 = {"grpo", "flow-grpo", "dr-grpo", "gspo", "rloo", "remax", "reinforce", "ppo", "nash-md"}
"""Where β weighs a divergence, which may be left out."""


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("beta", [0, -0.1, "much", INF, NAN])
def test_a_beta_that_means_nothing_is_refused(name, beta):
    required = {option.name: 4 for option in options.described(SPECS[name]) if option.required}
    faults = options.check(SPECS[name], {**required, "beta": beta})
    assert bool(faults) == (not (beta == 0 and name in MAY_BE_0))
    assert all(key == "beta" for key, _ in faults)


# ---- capabilities

PLUGIN = """
from mmalign import ModelSpec, hookimpl

class Model:
    \"\"\"Is never built.\"\"\"

@hookimpl
def mmalign_models():
    for process in ("denoising", "scoring", "tokens"):
        yield ModelSpec(process, Model, process=process)
"""

CONFIG = """
name: x
plugins: [./models.py]
model: {model}
data: {{type: prompts, path: p.txt}}
objective: {objective}
trainer: {{steps: 1}}
"""


@pytest.mark.parametrize(("name", "process"), [cell for cell in CELLS if cell not in FITTING])
def test_a_model_that_cannot_do_what_an_objective_needs_is_told_before_it_loads(tmp_path, name, process):
    (tmp_path / "models.py").write_text(PLUGIN)
    required = {option.name: 4 for option in options.described(SPECS[name]) if option.required}
    given = {"losses": {"dpo": {"weight": 1}}} if name == "weighted-sum" else required
    (tmp_path / "x.yaml").write_text(CONFIG.format(model=process, objective=json.dumps({"type": name, **given})))
    document = load(tmp_path / "x.yaml", (), tolerant=True)
    with pytest.raises(UserError, match=rf"x\.yaml:\d+: objective: '{name}' needs '.*'; model '{process}' offers "):
        choose(document, plugins.load(["models.py"], tmp_path, installed=False))


def test_rows_of_which_an_objective_on_rollouts_has_no_loss_are_refused(tmp_path):
    (tmp_path / "models.py").write_text(PLUGIN)
    held = "rewards: [{type: length, most: 5}]\nevaluation: {data: {type: prompts, path: p.txt}}\n"
    (tmp_path / "x.yaml").write_text(CONFIG.format(model="tokens", objective="grpo") + held)
    document = load(tmp_path / "x.yaml", (), tolerant=True)
    with pytest.raises(UserError, match=r"evaluation\.data: 'grpo' trains on its own samples"):
        choose(document, plugins.load(["models.py"], tmp_path, installed=False))
