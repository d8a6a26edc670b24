"""Metrics: formulas of sums over samples, their standard errors, and how a run measures them."""

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.builtin import evaluation, files
from mmalign.builtin.evaluation import evaluate
from mmalign.builtin.statistics import estimates, paired, paired_estimates, summary, summed
from mmalign.compose import build_metrics
from mmalign.config import Config, _contradictions
from mmalign.errors import UserError
from mmalign.fits import unjudged
from mmalign.metrics import CheckedMetric, f1, ratio
from mmalign.records import Prompt, Samples
from mmalign.specs import JudgeSpec, MetricSpec
from unit.test_builtin import Listener, Run

NUMBERS = st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=12)
COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=3, max_size=12)


def mean_of(sums):
    return {"score": ratio(sums["score"], sums["samples"])}


def share_of(sums):
    return {"share": ratio(sums["part"], sums["whole"])}


def scored(values):
    return [{"score": value, "samples": 1} for value in values]


@given(NUMBERS)
def test_a_metric_that_is_a_mean_has_the_mean_s_errors_alone_and_paired(pairs):
    before, after = zip(*pairs, strict=True)
    alone, expected = estimates(mean_of, scored(after))["score"], summary(after)
    assert alone == pytest.approx(expected, rel=1e-6, abs=1e-9)
    both, expected = paired_estimates(mean_of, scored(before), scored(after))["score"], paired(before, after)
    for part in ("before", "after", "difference"):
        assert both[part] == pytest.approx(expected[part], rel=1e-6, abs=1e-9)


def test_a_ratio_of_sums_against_hand_values():
    rows = [{"part": 1, "whole": 4}, {"part": 1, "whole": 1}, {"part": 0, "whole": 1}]
    found = estimates(share_of, rows)["share"]
    without = [1 / 2, 1 / 5, 2 / 5]
    centre = sum(without) / 3
    assert found["mean"] == pytest.approx(2 / 6)
    assert found["se"] == pytest.approx(math.sqrt(2 / 3 * sum((x - centre) ** 2 for x in without)), rel=1e-12)


def test_the_error_of_a_ratio_is_that_of_many_samples_drawn_anew():
    """Against the spread of the ratio over 4000 redrawn data sets, where longer rows have a larger share."""
    import random

    rng = random.Random(0)

    def drawn():
        wholes = [rng.randint(1, 6) for _ in range(60)]
        return [{"part": sum(rng.random() < 0.1 * w for _ in range(w)), "whole": w} for w in wholes]

    shares = [share_of(_sums(drawn()))["share"] for _ in range(4000)]
    centre = sum(shares) / len(shares)
    spread = math.sqrt(sum((s - centre) ** 2 for s in shares) / (len(shares) - 1))
    errors = [estimates(share_of, drawn())["share"]["se"] for _ in range(200)]
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.06)


def _sums(rows):
    return {name: sum(row[name] for row in rows) for name in rows[0]}


@given(COUNTS)
def test_what_did_not_change_has_no_error_of_its_difference(rows):
    counts = [{"part": min(part, whole), "whole": whole} for part, whole in rows]
    difference = paired_estimates(share_of, counts, counts)["share"]["difference"]
    assert difference == {"mean": 0, "se": 0}


def test_rows_that_could_not_be_measured_are_left_out_of_both_sides():
    before, after = scored([1.0, 2.0, 3.0]), [None, *scored([5.0, 7.0])]
    found = paired_estimates(mean_of, before, after)["score"]
    assert (found["before"]["mean"], found["after"]["mean"]) == (2.5, 6.0)
    assert (found["n"], found["unscored"]) == (2, 1)
    assert estimates(mean_of, after)["score"]["unscored"] == 1


def test_of_nothing_there_is_no_number():
    assert math.isnan(estimates(share_of, [None])["share"]["mean"])
    assert math.isnan(paired_estimates(share_of, [None], [None])["share"]["difference"]["mean"])


def test_f1_of_nothing_is_0():
    assert (f1(0.0, 0.0), f1(0.5, 1.0)) == (0.0, 2 / 3)


# ---- in a run


@dataclass
class Bright:
    """The share of pixels above 0.5, over all pixels."""

    unknown: frozenset[str] = frozenset()
    seen: list[str] = field(default_factory=list)

    def counts(self, samples):
        self.seen += samples.texts
        rows = [{"part": float((one > 0.5).sum()), "whole": one.numel()} for one in samples.media]
        return [None if text in self.unknown else row for text, row in zip(samples.texts, rows, strict=True)]

    def numbers(self, sums):
        return share_of(sums)


def measured(tmp_path, metric, **changes):
    run = Run(tmp_path / "run", [evaluation], **changes)
    run.parts.metrics = {"bright-pixels": CheckedMetric("bright-pixels", metric)}
    return run


def test_evaluation_json_holds_every_number_before_and_after(tmp_path):
    run = measured(tmp_path, Bright()).go()
    found = json.loads((run.folder / "evaluation.json").read_text())
    assert set(found) == {"rewards", "metrics"}
    share = found["metrics"]["bright-pixels"]["share"]
    assert set(share) == {"before", "after", "difference", "n"}
    assert share["difference"]["mean"] == pytest.approx(share["after"]["mean"] - share["before"]["mean"])
    assert share["difference"]["mean"] > 0.2  # the samples got brighter by 0.4
    assert 0 < share["difference"]["se"] < 0.2


def test_a_run_without_metrics_writes_none(tmp_path):
    run = Run(tmp_path / "run", [evaluation]).go()
    assert set(json.loads((run.folder / "evaluation.json").read_text())) == {"rewards"}
    assert "counts" not in files.read_rows(run.folder / "evaluation/step-000000.jsonl")[0]


def test_plugins_hear_of_metrics_beside_rewards(tmp_path):
    listener = Listener()
    run = Run(tmp_path / "run", [evaluation, listener])
    run.parts.metrics = {"m": CheckedMetric("m", Bright(unknown=frozenset("b")))}
    run.go()
    _, results = listener.heard[-1]
    assert set(results) == {"bright", "dark", "m/share"}
    heard = results["m/share"]
    assert (heard["role"], heard["n"], heard["unscored"]) == ("metric", 4, 1)
    assert heard["difference"] > 0
    assert "win_rate" not in heard


def test_a_resumed_run_reads_what_was_counted(tmp_path):
    measured(tmp_path, Bright(), every=2).go(until=2)
    again = Bright()
    measured(tmp_path, again, every=2).go(until=2)
    assert not again.seen


def test_counts_do_not_depend_on_the_batch_size():
    prompts, seeds = [Prompt(c) for c in "abcde"], list(range(5))
    policy = Run.__init__.__globals__["Policy"]()
    one, all_at_once = (evaluate(policy, prompts, {}, seeds, size, metrics={"m": Bright()}) for size in (1, 5))
    assert one.counts == all_at_once.counts


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1.0}], "metric 'm' must count each of 2 samples; it returned 1 rows"),
        ([{"a": 1.0}, {"a": math.nan}], "metric 'm' counted nan of 'a'"),
    ],
)
def test_a_metric_that_miscounts_is_named(rows, message):
    metric = CheckedMetric("m", SimpleNamespace(counts=lambda samples: rows))
    with pytest.raises(UserError, match=message):
        metric.counts(Samples([Prompt("a"), Prompt("b")], ["x", "y"]))


def faults(**given):
    document = {"name": "x", "model": "m", "data": "d", "objective": "o", "trainer": {"steps": 1}, "evaluation": given}
    return list(_contradictions(Config.model_validate(document)))


def test_metrics_need_prompts_and_names():
    assert faults(metrics=["pope"]) == [("evaluation.metrics", "nothing to score: add evaluation.prompts")]
    (first, second) = faults(metrics=["pope", "pope"], prompts="p")
    assert first == ("evaluation.metrics.0", "2 metrics are called 'pope': give each a `name`")
    assert second[0] == "evaluation.metrics.1"


# ---- a judge


class Agrees:
    """A metric that counts what its judge says."""

    def counts(self, samples, judge):
        return [{"yes": judge.ask([prompt])[0] == "yes", "asked": 1} for prompt in samples.prompts]

    def numbers(self, sums):
        return {"agreement": ratio(sums["yes"], sums["asked"])}


class Echo:
    """A judge that says what it is asked."""

    def ask(self, prompts):
        return [prompt.text for prompt in prompts]


def picked(key, spec, built=None):
    return SimpleNamespace(key=key, offer=SimpleNamespace(spec=spec), build=lambda device: built())


AGREES = picked("evaluation.metrics.0", MetricSpec("agrees", Agrees, judge=frozenset({"answers"})), Agrees)


def test_a_metric_gets_the_judge_that_it_asks_for():
    judge = picked("evaluation.judge", JudgeSpec("echo", Echo, offers=frozenset({"answers"})), Echo)
    plain = picked("evaluation.metrics.1", MetricSpec("bright", Bright), Bright)
    parts = [SimpleNamespace(label="agrees"), SimpleNamespace(label="bright")]
    config = SimpleNamespace(evaluation=SimpleNamespace(metrics=parts))
    found = build_metrics(SimpleNamespace(config=config, metrics=[AGREES, plain], judge=judge))
    rows = found["agrees"].counts(Samples([Prompt("yes"), Prompt("no")], ["", ""]))
    assert found["agrees"].numbers(summed(rows)) == {"agreement": 0.5}
    assert found["bright"].judge is None
    assert list(unjudged([AGREES, plain], judge)) == []


def test_a_metric_without_the_judge_that_it_asks_for_is_a_fault():
    (fault,) = unjudged([AGREES], None)
    assert fault == ("evaluation.metrics.0", "'agrees' asks a judge for 'answers': name one under evaluation.judge")
    other = picked("evaluation.judge", JudgeSpec("oracle", Echo))
    (fault,) = unjudged([AGREES], other)
    assert fault[1] == "'agrees' asks for 'answers', which judge 'oracle' does not give"
