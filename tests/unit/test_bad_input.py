"""What nothing can be learned from is an error that says so, or is counted and left out; it is never a NaN that nobody sees."""

import json
from dataclasses import replace

import pytest
import torch

from mmalign import UserError, options, plugins
from mmalign.compose import choose
from mmalign.config import load
from mmalign.data.collect import ranked
from mmalign.data.sources import Pairs, ScoredRows
from mmalign.data.texts import TextPairs, TextSamples
from mmalign.errors import BadRow
from mmalign.feeds import Rows, summary
from mmalign.records import LogProbs, Scores
from unit import toy
from unit.test_every_objective import CELLS, FITTING, ON_ROLLOUTS, SPECS, scored
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


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"score": None}, "row 2: column score: None is no score, which is a number"),
        ({"score": "good"}, "row 2: column score: 'good' is no score"),
        ({"sample": None}, "row 2: no sample"),
        ({"prompt": None}, "row 2: no prompt"),
    ],
)
def test_a_sample_without_what_it_needs_is_named_and_may_be_skipped(write, changed, told):
    row = {"prompt": "a cat", "sample": "1.png", "score": 0.5}
    rows = ScoredRows(write(row, {**row, **changed}))
    with pytest.raises(BadRow, match=told):
        rows[1]
    assert next(Rows(rows, 2, seed=0, skip_bad=True))["score"] == [0.5] * 2


def test_a_picture_against_itself_is_named(write):
    rows = Pairs(write(PICTURES, {**PICTURES, "rejected": "1.png"}))
    assert rows[0]["rejected"].name == "2.png"
    with pytest.raises(BadRow, match=r"row 2: both sides are 1\.png, so neither is better"):
        rows[1]


def test_pairs_that_all_tie_are_refused(write):
    with pytest.raises(UserError, match="holds no pair with a preference"):
        Pairs(write({**PICTURES, "scores": [1, 1]}, {**PICTURES, "scores": [0.5, 0.5]}))


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
    told = summary(experience)
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
@pytest.mark.parametrize("beta", [0, -0.1, "much"])
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
