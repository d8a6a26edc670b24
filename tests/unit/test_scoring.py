"""Reward modelling in float64: the losses' golden numbers and invariants, the metrics, and the process on a toy network."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError, options, plugins
from mmalign.builtin import held_out
from mmalign.builtin.files import read_rows
from mmalign.builtin.parts import mmalign_objectives
from mmalign.maths.agreement import accuracy, recalls, tie_calibrated_accuracy
from mmalign.objectives import bradley_terry, btt, reward_regression, segment_classification
from mmalign.objectives.labels import by_head, class_indices
from mmalign.processes.scoring import Encoded, Heads
from mmalign.records import EVERY, Segment
from mmalign.rewards.ensemble import combined
from mmalign.specs import Objective
from unit.toy import prompts, rng
from unit.toy_scores import parts, policy

NAN = math.nan
GAP = st.floats(-8, 8)
SCORE = ("score",)
KINDS, CLASSES = ("existence", "relation"), ("absent", "faithful", "hallucinated")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return doubles(*values)[:, None]


def bt(gap, preference=1.0, by=1.0, shift=0.0, **options):
    """by: the row's strength."""
    given = column(gap + shift), column(shift), column(preference), column(by), SCORE
    return bradley_terry.loss(*given, **options).values.item()


def ties(gap, preference, theta=5.0):
    return btt.loss(column(gap), column(0.0), column(preference), SCORE, theta=theta).values.item()


# ---- formulas


@pytest.mark.parametrize(
    ("strength", "margin", "scaled"), [(1, 0.798139, 0.371101), (2, 1.463282, 0.742202), (3, 2.305083, 1.113302)]
)
def test_golden_numbers_of_bradley_terry(strength, margin, scaled):
    assert bt(0.8) == pytest.approx(0.371101, abs=1e-6)
    assert bt(0.8, by=strength, margin=1.0, strength="margin") == pytest.approx(margin, abs=1e-6)
    assert bt(0.8, by=strength, strength="scale") == pytest.approx(scaled, abs=1e-6)
    assert bt(0.8, margin=float(strength)) == pytest.approx(margin, abs=1e-6)


@pytest.mark.parametrize(
    ("chosen", "wrong"),
    [
        ({"strength": "margin"}, True),
        ({"strength": "margin", "margin": 0}, True),
        ({"strength": "margin", "margin": 1}, False),
        ({"strength": "scale"}, False),
        ({}, False),
    ],
)
def test_a_strength_that_multiplies_no_margin_is_refused(chosen, wrong):
    (spec,) = (spec for spec in mmalign_objectives() if spec.name == "bradley-terry")
    told = options.check(spec, chosen)
    assert [key for key, _ in told] == ["strength"] * wrong
    assert all("`margin`, which is 0" in sentence and "leave strength out" in sentence for _, sentence in told)


@given(GAP, GAP)
def test_bradley_terry_sees_differences_alone_and_both_sides_alike(gap, shift):
    assert bt(gap) == pytest.approx(bt(gap, shift=shift))
    assert bt(-gap, -1.0) == pytest.approx(bt(gap, 1.0))
    assert bt(0.0) == pytest.approx(math.log(2))
    assert bt(gap, by=1.0, strength="scale", margin=0.0) == pytest.approx(bt(gap))
    assert bt(gap, shift=shift, centering=0.01) - bt(gap) == pytest.approx(0.01 * (gap + 2 * shift) ** 2)


def test_golden_numbers_of_ties():
    found = [math.exp(-ties(0.7, preference)) for preference in (1.0, -1.0, 0.0)]
    assert found == pytest.approx([0.287115, 0.090344, 0.622541], abs=1e-6)
    assert [math.exp(-ties(0.0, p)) for p in (1.0, -1.0, 0.0)] == pytest.approx([1 / 6, 1 / 6, 2 / 3])


@given(GAP, st.floats(1.001, 50))
def test_probabilities_with_ties_add_up_and_are_symmetric(gap, theta):
    first, second, tie = (math.exp(-ties(gap, preference, theta)) for preference in (1.0, -1.0, 0.0))
    assert first + second + tie == pytest.approx(1)
    assert math.exp(-ties(-gap, -1.0, theta)) == pytest.approx(first)
    assert math.exp(-ties(-gap, 0.0, theta)) == pytest.approx(tie)
    assert tie <= math.exp(-ties(0.0, 0.0, theta)) + 1e-12
    assert ties(gap, 1.0, 1 + 1e-9) == pytest.approx(bt(gap))


@pytest.mark.parametrize("gap", [-2.0, 0.0, 0.5])
def test_a_tie_pulls_scores_together(gap):
    first = column(gap).requires_grad_()
    btt.loss(first, column(0.0), column(0.0), SCORE).values.sum().backward()
    assert math.copysign(1, first.grad.item()) == math.copysign(1, gap) if gap else first.grad.item() == 0


@pytest.mark.parametrize("module", [bradley_terry, btt])
def test_dimensions_add_up_and_unlabelled_ones_have_no_gradient(module):
    first, second = torch.randn(2, 4, 3, dtype=torch.float64, generator=rng()).requires_grad_()
    preferences = doubles([1, -1, NAN], [NAN, 1, 1], [NAN, NAN, NAN], [-1, NAN, -1])
    more = [torch.ones_like(preferences)] if module is bradley_terry else []
    whole = module.loss(first, second, preferences, *more, ("a", "b", "c"))
    alone = [
        module.loss(first[:, [k]], second[:, [k]], preferences[:, [k]], *[one[:, [k]] for one in more], SCORE).values
        for k in range(3)
    ]
    assert_close(whole.values, sum(alone))
    (slope,) = torch.autograd.grad(whole.values.sum(), first)
    assert slope.isfinite().all()
    assert (slope == 0).equal(preferences.isnan())
    assert {"accuracy", "accuracy/a", "accuracy_with_ties/c"} <= whole.metrics.keys()


def test_bradley_terry_leaves_ties_out_and_counts_them():
    found = bradley_terry.loss(
        column(2.0, 1.0), column(0.0, 0.0).requires_grad_(), column(1.0, 0.0), column(1.0, 1.0), SCORE
    )
    assert found.values.tolist() == [pytest.approx(bt(2.0)), 0.0]
    assert found.metrics["undecided"] == 0.5


def test_regression_counts_rated_dimensions_alone():
    scores, ratings = doubles([1.0, 2.0], [3.0, 0.0]).requires_grad_(), doubles([0.0, NAN], [1.0, 2.0])
    found = reward_regression.loss(scores, ratings, ("a", "b"))
    assert found.values.tolist() == [1.0, 8.0]
    found.values.sum().backward()
    assert scores.grad.tolist() == [[2.0, 0.0], [4.0, -4.0]]
    assert found.metrics["error"].item() == pytest.approx(5 / 3)
    assert found.metrics["error/b"].item() == 2.0


def test_classification_is_weighted_cross_entropy_of_labelled_kinds():
    logits = torch.randn(3, 2, 3, dtype=torch.float64, generator=rng()).requires_grad_()
    labels = torch.tensor([[0, 2], [1, -1], [-1, 2]])
    found = segment_classification.loss(logits, labels, KINDS, CLASSES, class_weights={"hallucinated": 4.0})
    log_probs = logits.log_softmax(-1)
    expected = [-log_probs[0, 0, 0] - 4 * log_probs[0, 1, 2], -log_probs[1, 0, 1], -4 * log_probs[2, 1, 2]]
    assert_close(found.values, torch.stack(expected))
    (slope,) = torch.autograd.grad(found.values.sum(), logits)
    assert (slope.abs().sum(-1) == 0).equal(labels == -1)
    with pytest.raises(UserError, match="no class 'halucinated', did you mean 'hallucinated'"):
        segment_classification.loss(logits, labels, KINDS, CLASSES, class_weights={"halucinated": 4.0})


def test_golden_numbers_of_ensembles():
    scores = column(1.0, 2.0, 4.0)
    assert combined(scores, "mean").item() == pytest.approx(2.33333, abs=1e-5)
    assert combined(scores, "min").item() == 1
    assert combined(scores, "mean-variance", 0.5).item() == pytest.approx(1.55556, abs=1e-5)
    assert combined(scores, "mean-std", 0.5).item() == pytest.approx(2.33333 - 0.5 * math.sqrt(14) / 3, abs=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.floats(-5, 5))
def test_ensembles_move_with_their_members(scores, shift):
    for by in ("mean", "min", "mean-std", "mean-variance"):
        found = combined(column(*scores), by)
        assert_close(combined(column(*scores) + shift, by), found + shift, atol=1e-9, rtol=0)
        assert found.item() <= max(scores) + 1e-9
        assert len(scores) > 1 or found.item() == scores[0]


# ---- metrics


def test_accuracy_is_of_decided_pairs():
    assert accuracy(doubles(1, -1, 2, 3), doubles(1, 1, 0, NAN)).item() == 0.5
    assert accuracy(doubles(0.0), doubles(1.0)).item() == 0
    assert accuracy(doubles(1.0), doubles(0.0)).isnan()
    assert tie_calibrated_accuracy(doubles(1.0), doubles(NAN)).isnan()


@given(st.lists(st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]), st.sampled_from([1.0, -1.0, 0.0])), min_size=1))
def test_tie_calibrated_accuracy_is_the_best_of_all_thresholds(cells):
    def at(epsilon):
        said = [0 if abs(gap) <= epsilon else math.copysign(1, gap) for gap, _ in cells]
        return sum(one == preference for one, (_, preference) in zip(said, cells, strict=True)) / len(cells)

    gaps, preferences = zip(*cells, strict=True)
    found = tie_calibrated_accuracy(doubles(*gaps), doubles(*preferences)).item()
    # Below 0 nothing ties; a gap of 0 is then neither side, so never right.
    none = sum(gap * preference > 0 for gap, preference in cells) / len(cells)
    assert found == pytest.approx(max(none, *(at(epsilon) for epsilon in (0, 0.5, 1, 2))), abs=1e-6)


def test_recall_is_of_each_class_however_rare():
    labels = torch.tensor([0] * 8 + [1, 1, -1])
    found = recalls(torch.tensor([0] * 9 + [1, 2]), labels, 3)
    assert found[:2].tolist() == [1.0, 0.5]
    assert found[2].isnan()


# ---- labels


def test_a_label_without_a_dimension_holds_for_every_head():
    rows = [{EVERY: 1.0}, {"b": 0.0}, {"a": -1.0, "c": 1.0}]
    found = by_head(rows, ("a", "b"), doubles(0.0))
    assert_close(found, doubles([1, 1], [NAN, 0], [-1, NAN]), equal_nan=True)
    with pytest.raises(UserError, match="labelled in 'qualty', did you mean 'quality'"):
        by_head([{"qualty": 1.0}], ("quality",), doubles(0.0))


def test_classes_are_found_by_name():
    assert class_indices([{"relation": "faithful"}], KINDS, CLASSES).tolist() == [[-1, 1]]
    with pytest.raises(UserError, match="labelled 'fathful', did you mean 'faithful'"):
        class_indices([{"relation": "fathful"}], KINDS, CLASSES)
    with pytest.raises(
        UserError, match=r"a segment is labelled in relations; model.heads.names are existence, relation"
    ):
        class_indices([{"relations": "faithful"}], KINDS, CLASSES)


TWICE = ({"annotators": ("ann", "ann")}, {"annotators": ("ann",), "classes": CLASSES})


@pytest.mark.parametrize(
    "given", [{"names": ()}, {"names": ("a", "a")}, {"names": ("a.b",)}, {"classes": ("one",)}, *TWICE]
)
def test_heads_that_mean_nothing_are_refused(given):
    with pytest.raises(ValueError, match=r"give|differ|nothing to tell apart|leave out"):
        Heads(**given)


# ---- the process


def test_scores_are_read_at_the_end_and_segments_at_theirs():
    made, asked = policy("a", "b"), prompts(2)
    features = made.model.network(torch.tensor([[ord(letter) for letter in "xcat"]]))
    expected = made.headed.linear(features[0, -1])
    assert_close(made.scores(made.encode(asked, ["cat", "a dog sat"]))[0], expected)
    told = policy("a", "b", classes=CLASSES)
    logits = told.logits(told.encode(asked, ["cat", "a dog sat"], [[1, 3], [5]]))
    assert logits.shape == (3, 2, 3)
    places = features[0, [1, 3]]
    assert_close(logits[:2], told.headed.linear(places).view(2, 2, 3))


def test_heads_may_read_at_places_of_their_own():
    """Of the shared layer's answers at K places the diagonal counts."""
    made, asked = policy("a", "b"), prompts(1)
    plain = made.encode(asked, ["cat"])
    own = Encoded(plain.inputs, torch.tensor([[[1, 3]]]))
    features = made.model.network(plain.inputs["ids"])[0]
    expected = torch.stack([made.headed.linear(features[1])[0], made.headed.linear(features[3])[1]])
    assert_close(made.scores(own)[0], expected)
    (slope,) = torch.autograd.grad(made.scores(own)[0, 0], made.headed.linear.weight)
    assert slope[1].eq(0).all()


def test_values_on_one_scale_are_those_of_training():
    """Moments are of what was given in training alone, they travel with the heads, and they forget."""
    made, asked = policy("a", "b"), prompts(2)
    encoded = made.encode(asked, ["cat", "a dog sat"])
    with made.judging():
        scores = made.scores(encoded)
    assert_close(made.standardized(scores), scores)
    made.scores(encoded)
    mean, deviation = made.headed.scale
    assert_close(mean, scores.mean(0))
    assert_close(deviation, scores.std(0, correction=0))
    assert_close(made.standardized(scores).std(0, correction=0), torch.ones(2, dtype=torch.float64))
    fresh = policy("a", "b")
    fresh.load_state_dict(made.state_dict())
    assert_close(fresh.standardized(scores), made.standardized(scores))
    with torch.no_grad():
        made.headed.linear.bias += 1
        for _ in range(2000):
            made.scores(encoded)
    assert_close(made.headed.scale[0], scores.mean(0) + 1, atol=1e-6, rtol=0)


def test_values_and_classes_are_not_taken_for_each_other():
    values, told = policy(), policy(classes=CLASSES)
    with pytest.raises(UserError, match=r"model.heads tell classes"):
        told.scores(told.encode(prompts(1), ["a"]))
    with pytest.raises(UserError, match=r"model.heads give values"):
        values.logits(values.encode(prompts(1), ["a"], [[1]]))


def test_state_and_saved_result_come_back(tmp_path):
    trained, fresh = policy("a", "b"), policy("a", "b")
    with torch.no_grad():
        for weight in trained.network.parameters():
            weight += 1
    encoded = trained.encode(prompts(3), ["one", "two", "three"])
    assert not torch.allclose(fresh.scores(encoded), trained.scores(encoded))
    trained.save(tmp_path)
    fresh.load(tmp_path)
    assert_close(fresh.scores(encoded), trained.scores(encoded))
    other = policy("a", "b")
    other.load_state_dict(trained.state_dict())
    assert_close(other.scores(encoded), trained.scores(encoded))
    with pytest.raises(UserError, match="these heads belong to another model"):
        policy("a").load(tmp_path)
    with pytest.raises(UserError, match=r"holds no heads.safetensors"):
        fresh.load(tmp_path / "elsewhere")


def test_checkpointing_reaches_the_adapter():
    assert policy(gradient_checkpointing=True).model.recomputes
    assert not policy().model.recomputes


# ---- training


def preferred(n, seed=0):
    """Answers of which the one with more letters "z" is better; a third of the pairs tie."""
    generator = rng(seed)
    rows = []
    for i in range(n):
        counts = torch.randint(0, 5, (2,), generator=generator).tolist()
        counts = [counts[0]] * 2 if i % 3 == 0 else [counts[0], counts[0] + 1 + counts[1]]
        counts = counts[::-1] if i % 2 else counts
        first, second = ("z" * count + "a" * (9 - count) for count in counts)
        preference = {EVERY: float((counts[0] > counts[1]) - (counts[0] < counts[1]))}
        row = {"first": first, "second": second, "preferences": preference, "strengths": {}}
        rows.append({"prompt": prompts(1)[0], **row})
    return rows


@pytest.mark.parametrize("module", [bradley_terry, btt])
def test_held_out_accuracy_rises(module):
    made = parts("a", "b", objective=module.objective, held_out=preferred(24, seed=1))
    rows = preferred(24)
    before = held_out.measure(made, 5, 0)
    optimizer = torch.optim.Adam(made.policy.network.parameters(), lr=0.05)
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    for _ in range(40):
        loss = module.loss(**module.objective.terms(made, batch, rng())).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = held_out.measure(made, 5, 0)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] == 1
    assert after["accuracy_with_ties"] == 1
    assert before["accuracy"] < 0.9 or before["accuracy_with_ties"] < 0.9


def test_held_out_metrics_do_not_depend_on_the_batch_size():
    made = parts("a", "b", objective=btt.objective, held_out=preferred(7))
    found = [held_out.measure(made, batch_size, 0) for batch_size in (1, 3, 7)]
    for one, other in itertools.pairwise(found):
        assert one == pytest.approx(other)


@pytest.mark.parametrize("is_main", [True, False])
def test_held_out_rows_are_measured_when_due_and_where_a_run_stops(tmp_path, is_main):
    made = parts("a", "b", objective=btt.objective, held_out=preferred(4))
    evaluation = SimpleNamespace(every=2, batch_size=2, seed=0)
    run = Held(tmp_path, made, SimpleNamespace(evaluation=evaluation), is_main)
    held_out.mmalign_run_start(run)
    for run.step in (1, 2, 3):
        held_out.mmalign_step_end(run, run.step)
    before = torch.get_rng_state()
    held_out.mmalign_run_end(run, None)
    assert torch.get_rng_state().equal(before)
    rows = read_rows(tmp_path / "held_out.jsonl")
    assert [row["step"] for row in rows] == ([0, 2, 3] if is_main else [])
    assert len({row["loss"] for row in rows}) == int(is_main)


class Held:
    """What measuring held-out rows asks of a run."""

    def __init__(self, folder, made, config, is_main):
        self.folder, self.parts, self.config, self.is_main = folder, made, config, is_main
        self.step, self.steps = 0, 10
        (folder / "held_out.jsonl").touch()

    def keep(self, name, obj):
        return obj


def test_segments_of_a_batch_meet_their_labels():
    made = parts(*KINDS, classes=CLASSES, objective=segment_classification.objective)
    rows = [
        [Segment(0, 2, {"existence": "faithful"}), Segment(2, 4, {"relation": "absent", "existence": "absent"})],
        [Segment(1, 6, {"relation": "hallucinated"})],
    ]
    batch = {"prompt": prompts(2), "sample": ["abcd", "efghij"], "segments": rows}
    terms = segment_classification.terms(made, batch, rng())
    assert terms["labels"].tolist() == [[1, -1], [0, 0], [-1, 2]]
    assert_close(terms["logits"][2:], made.policy.logits(made.policy.encode(prompts(2)[1:], ["efghij"], [[6]])))


SCORERS = ("bradley-terry", "btt", "pal", "vpl", "reward-regression", "segment-classification")


def test_the_catalogue_offers_what_trains_scorers():
    catalogue = plugins.load(installed=False).catalogue
    for name in SCORERS:
        spec = catalogue.find("objective", name).spec
        assert isinstance(spec.load(), Objective)
        assert spec.needs == policy().offers
        sources = [offer.spec for offer in catalogue.offers("dataset").values() if spec.columns <= offer.spec.columns]
        assert sources
        assert all(source.load().__doc__ for source in sources)


def labelled():
    """Rows with everything that a scorer may learn from."""
    told = [[Segment(0, 2, {"existence": "faithful"})], [Segment(1, 3, {"relation": "absent", "existence": "absent"})]]
    batch = {"prompt": prompts(2), "first": ["abc", "z"], "second": ["b", "zz"], "sample": ["abc", "defg"]}
    judged = {"preferences": [{EVERY: 1.0}, {EVERY: -1.0}], "strengths": [{}, {}], "annotator": ["ann", "ben"]}
    return {**batch, **judged, "ratings": [{EVERY: 1.0}, {"relation": -2.0}], "segments": told}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.covers(name, "scoring")) for name in SCORERS])
def test_a_step_down_the_gradient_lowers_the_loss(name):
    spec = plugins.load(installed=False).catalogue.find("objective", name).spec
    objective, classes = spec.load(), CLASSES if name == "segment-classification" else ()
    made = parts(*KINDS, classes=classes, annotators=() if classes else ("ann", "ben"))
    batch = {column: labelled()[column] for column in spec.columns}
    weights = list(made.policy.network.parameters())
    found = objective.loss(**objective.terms(made, batch, rng())).values.mean()
    slopes = torch.autograd.grad(found, weights, allow_unused=True)
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight -= 1e-4 * (0 if slope is None else slope)
    assert objective.loss(**objective.terms(made, batch, rng())).values.mean() < found
