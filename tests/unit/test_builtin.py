"""mmalign's own plugins, driven through the hooks by a small run that has a picture-making policy of one parameter."""

import io
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mmalign import console, hookspecs
from mmalign.builtin import PLUGINS, accountability, checkpoints, evaluation, files, finite, progress, trackers
from mmalign.builtin.evaluation import evaluate, share
from mmalign.builtin.statistics import direction, paired, standard_error, summary
from mmalign.config import Config
from mmalign.errors import RunFailure, UserError
from mmalign.guidance import Lead
from mmalign.parts import Judge
from mmalign.records import Prompt, Samples, Scores
from mmalign.words import duration, plus_minus

FINITE = st.floats(-1e3, 1e3)
PAIRS = st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=30)


# ---- a run ----------------------------------------------------------------------------------------------------------


class Policy:
    """Pictures of noise from the seed, brighter by `lift`; the reference has no lift."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(2, 1)
        self.lift = 0.0
        self.drawn = 0
        self.sampling, self.ways = "training's", set()

    def sample(self, prompts, seeds):
        media = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed)) + self.lift for seed in seeds]
        self.drawn += len(prompts)
        torch.rand(3)  # as a careless sampler would
        self.ways.add(self.sampling)
        return Samples(prompts, torch.stack(media), list(seeds))

    @contextmanager
    def sampled(self, sampling) -> Iterator[None]:
        usual, self.sampling = self.sampling, sampling
        yield
        self.sampling = usual

    @contextmanager
    def reference(self) -> Iterator[None]:
        lift, self.lift = self.lift, 0.0
        try:
            yield
        finally:
            self.lift = lift


def brightness(samples):
    return Scores(samples.media.mean(dim=(1, 2, 3)))


def darkness(samples):
    return Scores(1 - samples.media.mean(dim=(1, 2, 3)))


class Run:
    """What the builtin plugins ask of a run: folder, parts, hooks, and state that a checkpoint brings back."""

    def __init__(self, folder, plugins=PLUGINS, resume=False, prompts=("a", "b", "c", "d", "e"), **changes):
        trainer = {"steps": 4, "batch_size": 3, "gradient_accumulation": 2, **changes.pop("trainer", {})}
        document = {"name": "demo", "model": "m", "data": "d", "objective": "o", "trainer": trainer}
        self.config = Config.model_validate({**document, "evaluation": {"batch_size": 2, "grid": 3, **changes}})
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(json.dumps(self.config.plain()))
        judges = {"bright": Judge("trained", brightness), "dark": Judge("held-out", darkness)}
        asked = [Prompt(text) for text in prompts]
        self.parts = SimpleNamespace(policy=Policy(), judges=judges, evaluation_prompts=asked)
        self.parts.held_out = self.parts.metrics = self.parts.guidance = None
        self.chosen = SimpleNamespace(evaluation_sampling="the evaluation's")
        self.engine = SimpleNamespace(rank=0, world=1, wait=lambda: None)
        self.feed = SimpleNamespace(rows=range(12), rows_per_batch=3)
        self.is_main, self.steps, self.stopped = True, trainer["steps"], None
        self.kept, self.warnings, self.notes = {}, [], []
        newest = max((folder / "checkpoints").glob("step-*"), default=None) if resume else None
        self.restored = json.loads((newest / "state.json").read_text()) if newest else {}
        self.step = self.restored.get("step", 0)
        self.manager = pluggy.PluginManager("mmalign")
        self.manager.add_hookspecs(hookspecs)
        for plugin in (*plugins, Painter()):
            self.manager.register(plugin)
        self.hook = self.manager.hook

    def keep(self, name, obj):
        assert name not in self.kept
        self.kept[name] = obj
        if name in self.restored:
            obj.load_state_dict(self.restored[name])
        return obj

    def warn(self, message):
        self.warnings.append(message)

    def checkpoint(self):
        folder = self.folder / "checkpoints" / files.step_name(self.step)
        state = {"step": self.step, **{name: obj.state_dict() for name, obj in self.kept.items()}}
        files.write(folder / "state.json", json.dumps(state))
        self.hook.mmalign_checkpoint(run=self, folder=folder)
        return folder

    def advance(self, **metrics):
        """One step of the loop. Returns the reason to stop."""
        self.step += 1
        metrics = {"loss": 1 / self.step, "grad_norm": 0.5 * self.step, "skipped": 0.0, **metrics}
        self.hook.mmalign_step_end(run=self, step=self.step, metrics=metrics)
        return self.hook.mmalign_should_stop(run=self, step=self.step, metrics=metrics)

    def go(self, until=None):
        """From the start hook to the end hook, or to a kill after step `until`."""
        self.hook.mmalign_run_start(run=self)
        while self.step < (until or self.steps):
            self.parts.policy.lift = 0.1 * (self.step + 1)
            self.stopped = self.advance()
            if self.stopped:
                break
        if until is None:
            self.end()
        return self

    def end(self, error=None):
        self.hook.mmalign_run_end(run=self, error=error)


class Painter:
    """Writes samples as text files."""

    @hookspecs.hookimpl
    def mmalign_write_samples(self, samples, folder):
        paths = [folder / f"{i}.txt" for i in range(len(samples))]
        for path, medium in zip(paths, samples.media, strict=True):
            path.write_text(f"{medium.mean():.6f}")
        return paths


class Listener:
    """Remembers evaluations."""

    def __init__(self):
        self.heard = []

    @hookspecs.hookimpl
    def mmalign_evaluated(self, step, results):
        self.heard.append((step, results))

    @property
    def steps(self):
        return [step for step, _ in self.heard]


# ---- statistics and words -------------------------------------------------------------------------------------------


def test_summary_against_hand_values():
    result = summary([1.0, 2.0, 3.0, 4.0])
    assert result["mean"] == 2.5
    assert result["se"] == pytest.approx(math.sqrt(5 / 3) / 2, rel=1e-15)  # sample variance 5/3, n = 4
    assert (result["n"], result["unscored"]) == (4, 0)


def test_what_is_not_finite_is_unscored_and_left_out():
    assert summary([1.0, math.nan, 3.0, math.inf]) == {"mean": 2.0, "se": 1.0, "n": 2, "unscored": 2}
    assert math.isnan(summary([])["mean"])
    assert math.isnan(standard_error([1.0]))


def test_standard_error_keeps_float64_under_a_large_offset():
    assert standard_error([1e9, 1e9 + 1e-3]) == pytest.approx(5e-4, rel=1e-3)


def test_paired_against_hand_values():
    result = paired([0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 3.0, 0.0])
    assert result["difference"]["mean"] == 0.5
    assert result["difference"]["se"] == pytest.approx(math.sqrt(5 / 3) / 2)  # differences 1, 0, 2, -1
    assert result["win_rate"] == (1 + 0.5 + 1 + 0) / 4
    assert result["ties"] == 1 / 4
    assert list(result) == ["before", "after", "difference", "win_rate", "ties", "n"]


def test_a_pair_with_one_unscored_side_is_left_out_of_both():
    result = paired([1.0, math.nan, 3.0], [2.0, 9.0, 5.0])
    assert result["before"]["mean"] == 2.0
    assert result["after"]["mean"] == 3.5
    assert (result["n"], result["unscored"]) == (2, 1)


@given(PAIRS)
def test_the_mean_difference_is_the_difference_of_the_means(pairs):
    before, after = zip(*pairs, strict=True)
    result = paired(before, after)
    assert result["difference"]["mean"] == pytest.approx(result["after"]["mean"] - result["before"]["mean"], abs=1e-9)


@given(PAIRS)
def test_wins_of_both_sides_sum_to_one(pairs):
    before, after = zip(*pairs, strict=True)
    assert paired(before, after)["win_rate"] + paired(after, before)["win_rate"] == pytest.approx(1)


@given(PAIRS, FINITE)
def test_what_both_sides_share_does_not_change_the_paired_error(pairs, shift):
    before, after = zip(*pairs, strict=True)
    moved = paired([b + shift for b in before], [a + shift for a in after])
    assert moved["difference"]["se"] == pytest.approx(paired(before, after)["difference"]["se"], abs=1e-9)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("difference", "se", "expected"),
    [(2.0, 1.0, 1), (1.9, 1.0, 0), (-2.0, 1.0, -1), (0.0, 0.0, 0), (0.1, 0.0, 1), (5.0, math.nan, 0)],
)
def test_direction_needs_two_standard_errors(difference, se, expected):
    assert direction(difference, se) == expected


def test_numbers_show_two_digits_of_their_error():
    assert plus_minus(0.72439, 0.0103) == "0.724 ± 0.010"
    assert plus_minus(0.11234, 0.0094, sign=True) == "+0.1123 ± 0.0094"
    assert plus_minus(1234.5, 56.7) == "1234 ± 57"
    assert plus_minus(0.5, math.nan) == "0.500"
    assert plus_minus(math.nan, math.nan) == "unscored"


def test_durations_read_well():
    assert [duration(s) for s in (0.5213, 12.4, 59.7, 125, 3840)] == [
        "0.52 s",
        "12 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 04 min",
    ]


# ---- files ----------------------------------------------------------------------------------------------------------


def test_rows_survive_the_disk_and_nan_becomes_null(tmp_path):
    rows = [{"a": 0.1 + 0.2, "b": [math.nan, 1]}, {"a": -math.inf, "b": []}]
    files.write_rows(tmp_path / "x.jsonl", rows)
    assert files.read_rows(tmp_path / "x.jsonl") == [{"a": 0.1 + 0.2, "b": [None, 1]}, {"a": None, "b": []}]
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_torn_last_line_is_left_out_but_a_broken_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert files.read_rows(path) == [{"step": 1}]
    path.write_text('{"step": 1}\nhello\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not JSON"):
        files.read_rows(path)


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_changes_no_score(batch_size):
    prompts, seeds = [Prompt(c) for c in "abcde"], list(range(5))
    judges = {"bright": Judge("trained", brightness)}
    outcome = evaluate(Policy(), prompts, judges, seeds, batch_size, keep=3)
    alone = [evaluate(Policy(), [p], judges, [s], 1).scores["bright"][0] for p, s in zip(prompts, seeds, strict=True)]
    assert outcome.scores["bright"] == alone
    assert outcome.shown.texts == ["a", "b", "c"]
    assert list(outcome.shown.seeds) == [0, 1, 2]


def test_all_judges_see_the_same_samples_and_none_is_kept_unasked():
    policy = Policy()
    judges = {"bright": Judge("trained", brightness), "dark": Judge("held-out", darkness)}
    outcome = evaluate(policy, [Prompt("a")] * 4, judges, range(4), 3)
    assert policy.drawn == 4
    assert outcome.scores["dark"] == pytest.approx([1 - score for score in outcome.scores["bright"]])
    assert outcome.shown is None


@given(n=st.integers(0, 40), world=st.integers(1, 9), first=st.integers(0, 12))
def test_processes_share_all_prompts_and_none_twice(n, world, first):
    slices = [share(n, rank, world, first) for rank in range(world)]
    assert [i for s in slices for i in range(n)[s]] == list(range(n))
    assert len(range(n)[slices[0]]) >= min(n, first)


def test_before_is_the_untouched_model_and_after_the_trained_one(tmp_path):
    run = Run(tmp_path / "run", [evaluation])
    run.parts.policy.lift = 5.0  # an adapter that does not begin at zero
    run.go()
    result = json.loads((run.folder / "evaluation.json").read_text())["rewards"]
    assert set(result["bright"]) == {"role", "before", "after", "difference", "win_rate", "ties", "n"}
    assert result["bright"]["role"] == "trained"
    assert result["dark"]["role"] == "held-out"
    assert result["bright"]["difference"]["mean"] == pytest.approx(0.4, abs=1e-6)  # lift at the last step
    assert result["bright"]["difference"]["se"] < 1e-6  # same seeds: the noise cancels
    assert result["bright"]["before"]["se"] > 1e-3
    assert (result["bright"]["win_rate"], result["dark"]["win_rate"]) == (1.0, 0.0)


def test_evaluations_come_before_every_n_steps_and_at_the_end(tmp_path):
    listener = Listener()
    Run(tmp_path / "run", [evaluation, listener], every=2, trainer={"steps": 5}).go()
    assert listener.steps == [0, 2, 4, 5]
    step, results = listener.heard[2]
    assert results["bright"]["difference"] == pytest.approx(0.1 * step, abs=1e-6)


def test_two_processes_find_what_one_finds(tmp_path):
    alone = Run(tmp_path / "alone", [evaluation]).go()
    barrier = threading.Barrier(2, timeout=60)
    both = [Run(tmp_path / "both", [evaluation]) for _ in range(2)]
    for rank, run in enumerate(both):
        run.engine = SimpleNamespace(rank=rank, world=2, wait=barrier.wait)
        run.is_main = rank == 0
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run.go(), both))
    for name in ("evaluation.json", "evaluation/step-000004.jsonl", "samples/step-000004/samples.jsonl"):
        assert (tmp_path / "both" / name).read_text() == (alone.folder / name).read_text()
    assert [run.parts.policy.drawn for run in both] == [6, 4]  # of 5 prompts, twice: the first 3, and the others
    assert not list((tmp_path / "both" / "evaluation").glob(".*"))


@pytest.mark.parametrize(("prompts", "world"), [("ab", 1), ("", 2)])
def test_what_the_rewards_were_asked_is_added_up_beside_what_changed(tmp_path, prompts, world):
    run = Run(tmp_path / "run", prompts=prompts)
    run.engine.world = world
    run.hook.mmalign_run_start(run=run)
    for asked in ({"queries": 12.0}, {}, {"queries": 8.0}):
        run.advance(**asked)
    run.end()
    found = json.loads((run.folder / "evaluation.json").read_text())
    assert found["queries"] == 20 * world
    assert set(found) == {"queries", *(["rewards"] if prompts else [])}


def test_a_run_without_rewards_asks_nothing(tmp_path):
    assert "queries" not in json.loads((Run(tmp_path / "run").go().folder / "evaluation.json").read_text())


def test_a_run_that_is_stopped_on_an_evaluated_step_is_not_evaluated_twice(tmp_path):
    listener = Listener()
    run = Run(tmp_path / "run", [evaluation, listener], every=2)
    run.go(until=2)
    run.end()
    assert listener.steps == [0, 2]


def test_the_last_evaluation_comes_after_the_last_checkpoint(tmp_path):
    def break_at_the_end(samples):
        if run.step == 4:
            raise MemoryError
        return brightness(samples)

    run = Run(tmp_path / "run", [evaluation, checkpoints], every=2)
    run.parts.judges["bright"] = Judge("trained", break_at_the_end)
    with pytest.raises(MemoryError):
        run.go()
    assert written(run) == ["step-000004"]


def test_a_failed_run_is_not_evaluated_at_its_end(tmp_path):
    listener = Listener()
    run = Run(tmp_path / "run", [evaluation, listener])
    run.go(until=2)
    run.end(RuntimeError("out of memory"))
    assert listener.steps == [0]


def test_guidance_leads_all_but_the_untouched_model_and_tells_what_went_wrong(tmp_path):
    class Brighter:
        def __call__(self, policy, reward, prompts, seeds):
            samples = policy.sample(prompts, seeds)
            return Samples(prompts, samples.media + 1, samples.seeds)

        def warnings(self):
            return ["it was dark"]

    for steps, last in ((0, "guided"), (4, "step-000004")):
        run = Run(tmp_path / last, [evaluation], trainer={"steps": steps}, guidance="leads")
        run.parts.guidance = Lead(Brighter())
        run.go()
        found = json.loads((run.folder / "evaluation.json").read_text())["rewards"]["bright"]["difference"]
        assert found["mean"] == pytest.approx(1 + 0.1 * steps, abs=1e-6)
        assert run.warnings == ["evaluation.guidance: it was dark"]
        assert {path.stem for path in (run.folder / "evaluation").iterdir()} == {"step-000000", last}


def test_samples_are_drawn_as_the_evaluation_says(tmp_path):
    run = Run(tmp_path / "run", [evaluation]).go()
    assert run.parts.policy.ways == {"the evaluation's"}
    assert run.parts.policy.sampling == "training's"


def test_samples_are_files_with_a_manifest(tmp_path):
    run = Run(tmp_path / "run", [evaluation], seed=7).go()
    folder = run.folder / "samples" / "step-000004"
    rows = files.read_rows(folder / "samples.jsonl")
    assert [(row["prompt"], row["seed"], row["sample"]) for row in rows] == [
        ("a", 7, "0.txt"),
        ("b", 8, "1.txt"),
        ("c", 9, "2.txt"),
    ]
    assert float((folder / "1.txt").read_text()) == pytest.approx(rows[1]["scores"]["bright"], abs=1e-5)


def test_without_a_plugin_that_writes_samples_there_are_none(tmp_path):
    run = Run(tmp_path / "run", [evaluation])
    run.manager.unregister(next(p for p in run.manager.get_plugins() if isinstance(p, Painter)))
    run.go()
    assert not list((run.folder / "samples").iterdir())
    assert (run.folder / "evaluation.json").is_file()


def test_a_resumed_run_reads_what_it_measured_and_tells_it_again(tmp_path):
    Run(tmp_path / "run", [evaluation, checkpoints], every=2, trainer={"checkpoint_every": 1}).go(until=2)
    listener = Listener()
    again = Run(tmp_path / "run", [evaluation, listener], every=2)  # no checkpoint is read: steps are made again
    again.go(until=2)
    assert again.parts.policy.drawn == 0
    assert listener.steps == [0, 2]
    assert listener.heard[1][1]["bright"]["difference"] == pytest.approx(0.2, abs=1e-6)


def test_an_evaluation_that_breaks_leaves_nothing_that_looks_done(tmp_path):
    run = Run(tmp_path / "run", [evaluation])
    run.parts.judges["bright"] = Judge("trained", lambda samples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.go()
    assert not list((run.folder / "evaluation").glob("*.jsonl"))


def test_changed_prompts_are_refused_when_resuming(tmp_path):
    Run(tmp_path / "run", [evaluation]).go(until=2)
    with pytest.raises(UserError, match=r"evaluation\.prompts .* differ"):
        Run(tmp_path / "run", [evaluation], prompts=("a", "b", "c", "d", "other")).go()


def test_unscored_samples_are_counted_and_left_out_pairwise(tmp_path):
    def moody(samples):
        values = samples.media.mean(dim=(1, 2, 3))
        return Scores(torch.where(torch.tensor([t == "b" for t in samples.texts]), torch.nan, values))

    run = Run(tmp_path / "run", [evaluation])
    run.parts.judges["bright"] = Judge("trained", moody)
    run.go()
    result = json.loads((run.folder / "evaluation.json").read_text())["rewards"]
    assert (result["bright"]["n"], result["bright"]["unscored"]) == (4, 1)
    assert files.read_rows(run.folder / "evaluation" / "step-000000.jsonl")[1]["scores"]["bright"] is None


def test_evaluation_draws_no_random_numbers_from_training(tmp_path):
    run = Run(tmp_path / "run", [evaluation])
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    run.go()
    assert torch.equal(torch.rand(4), undisturbed)


def test_a_run_without_evaluation_prompts_evaluates_nothing(tmp_path):
    run = Run(tmp_path / "run", [evaluation], prompts=(), every=1).go()
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.yaml"]


# ---- trackers -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_writes_the_metrics_of_an_uninterrupted_one(tmp_path):
    plugins = [trackers, checkpoints]
    whole = Run(tmp_path / "whole", plugins, trainer={"checkpoint_every": 2}).go()
    Run(tmp_path / "killed", plugins, trainer={"checkpoint_every": 2}).go(until=3)
    resumed = Run(tmp_path / "killed", plugins, resume=True, trainer={"checkpoint_every": 2})
    assert resumed.step == 2
    resumed.go()
    assert (resumed.folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in files.read_rows(resumed.folder / "timing.jsonl")] == [1, 2, 3, 4]


def test_a_run_that_was_killed_before_any_checkpoint_begins_its_files_anew(tmp_path):
    Run(tmp_path / "run", [trackers]).go(until=3)
    run = Run(tmp_path / "run", [trackers], resume=True).go()
    assert [row["step"] for row in files.read_rows(run.folder / "metrics.jsonl")] == [1, 2, 3, 4]


def test_metrics_keep_every_digit_in_sorted_order_and_nan_as_null(tmp_path):
    run = Run(tmp_path / "run", [trackers])
    run.hook.mmalign_run_start(run=run)
    run.advance(zeta=0.1 + 0.2, alpha=math.nan)
    line = (run.folder / "metrics.jsonl").read_text()  # written at once, before the run ends
    expected = {"step": 1, "alpha": None, "grad_norm": 0.5, "loss": 1.0, "skipped": 0.0, "zeta": 0.1 + 0.2}
    assert line == json.dumps(expected) + "\n"
    run.end()


def test_a_step_is_not_charged_for_evaluations_and_checkpoints(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(trackers, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Slow:
        @hookspecs.hookimpl(trylast=True)
        def mmalign_step_end(self, run, step):
            clock.now += 100.0
            run.hook.mmalign_evaluated(run=run, step=step, results={})
            clock.now += 1000.0

    run = Run(tmp_path / "run", [Slow(), trackers, checkpoints], trainer={"checkpoint_every": 1})
    run.hook.mmalign_run_start(run=run)
    for _ in range(2):
        clock.now += 0.5
        run.advance()
    run.end()
    assert files.read_rows(run.folder / "timing.jsonl") == [
        {"step": 1, "seconds": 0.5},
        {"step": 1, "evaluation_seconds": 100.0},
        {"step": 2, "seconds": 0.5},
        {"step": 2, "evaluation_seconds": 100.0},
    ]


def test_tensorboard_has_metrics_and_evaluation_means(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path / "run", [evaluation, trackers], every=2).go()
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in board.Scalars("evaluation/bright")] == [0, 2, 4]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def written(run):
    return sorted(path.name for path in (run.folder / "checkpoints").glob("step-*"))


def test_checkpoints_are_written_every_n_steps_and_at_the_last_and_the_newest_stay(tmp_path):
    seen = []

    class Watch:
        @hookspecs.hookimpl
        def mmalign_checkpoint(self, folder):
            seen.append(folder.name)

    run = Run(tmp_path / "run", [checkpoints, Watch()], trainer={"steps": 5, "checkpoint_every": 2}).go()
    assert seen == ["step-000002", "step-000004", "step-000005"]
    assert written(run) == ["step-000004", "step-000005"]


def test_without_an_interval_only_the_end_is_kept_also_when_stopped_early(tmp_path):
    class Stop:
        @hookspecs.hookimpl
        def mmalign_should_stop(self, step):
            return "good enough" if step == 3 else None

    assert written(Run(tmp_path / "a", [checkpoints]).go()) == ["step-000004"]
    assert written(Run(tmp_path / "b", [checkpoints, Stop()]).go()) == ["step-000003"]


def test_a_checkpoint_holds_the_state_of_whoever_observes_last(tmp_path):
    class Counter:
        steps = 0

        def state_dict(self):
            return {"steps": self.steps}

        @hookspecs.hookimpl
        def mmalign_run_start(self, run):
            run.keep("counter", self)

        @hookspecs.hookimpl(trylast=True)
        def mmalign_step_end(self):
            self.steps += 1

    run = Run(tmp_path / "run", [checkpoints, Counter()], trainer={"checkpoint_every": 1}).go(until=3)
    assert json.loads((run.folder / "checkpoints/step-000003/state.json").read_text())["counter"] == {"steps": 3}


def test_a_skipped_step_does_not_push_out_a_good_checkpoint(tmp_path):
    run = Run(tmp_path / "run", [checkpoints], trainer={"steps": 9, "checkpoint_every": 1, "keep_checkpoints": 1})
    run.advance()
    for _ in range(3):
        run.advance(loss=math.nan, skipped=1.0)
    assert written(run) == ["step-000001"]


# ---- finite ---------------------------------------------------------------------------------------------------------


def test_five_skipped_updates_in_a_row_end_the_run_and_name_the_way_out(tmp_path):
    run = Run(tmp_path / "run", [finite, checkpoints], trainer={"steps": 20, "checkpoint_every": 1})
    run.hook.mmalign_run_start(run=run)
    for skipped in (0, 1, 1, 1, 1, 0, 1, 1, 1, 1):
        run.advance(skipped=float(skipped))
    with pytest.raises(RunFailure, match=r"step 11: .* 5 updates in a row") as failure:
        run.advance(skipped=1.0)
    assert str(run.folder / "checkpoints" / "step-000006") in str(failure.value)
    assert "trainer.learning_rate (it is 1e-05)" in str(failure.value)
    run.end(failure.value)
    assert run.warnings == ["9 of 11 updates were skipped: their loss or gradient was not finite"]


def test_the_count_of_skipped_updates_survives_a_resume(tmp_path):
    count = finite.Count()
    for skipped in (True, False, True, True):
        count.add(skipped)
    again = finite.Count()
    again.load_state_dict(count.state_dict())
    assert (again.total, again.in_a_row) == (3, 2)


def test_a_run_that_learned_nothing_says_so_at_its_end(tmp_path, capsys):
    def warned(name, *norms, error=None):
        run = Run(tmp_path / name, [finite])
        run.hook.mmalign_run_start(run=run)
        for norm in norms:
            run.advance(grad_norm=norm)
        run.end(error)
        return run.warnings

    (sentence,) = warned("still", 0.0, 0.0, 0.0)
    assert sentence.startswith("none of the 3 updates had a gradient, so the model is what it was.")
    assert str(tmp_path / "still" / "metrics.jsonl") in sentence
    assert sentence in capsys.readouterr().out
    assert warned("moved", 0.0, 1e-9, 0.0) == warned("broken", 0.0, error=RunFailure("x")) == warned("none") == []
    count = finite.Count()
    count.load_state_dict({"total": 0, "in_a_row": 0})  # as kept before updates without gradient were counted
    assert count.still == 0


# ---- accountability -------------------------------------------------------------------------------------------------


def results(trained, held_out, se=0.01):
    def one(role, difference):
        return {"role": role, "mean": 0.5, "se": se, "n": 9, "difference": difference, "difference_se": se}

    return {"clip": one("trained", trained), "oracle": one("held-out", held_out)}


@pytest.mark.parametrize(
    ("trained", "held_out", "expected"),
    [(0.1, -0.1, True), (0.1, -0.01, False), (0.01, -0.1, False), (0.1, 0.1, False), (-0.1, -0.1, False)],
)
def test_hacking_is_a_clear_rise_of_what_is_trained_and_a_clear_fall_of_what_is_not(trained, held_out, expected):
    assert accountability.hacked(results(trained, held_out)) is expected


def test_the_warning_comes_once_each_time_that_it_begins_also_across_a_resume(tmp_path):
    plugins = [*PLUGINS]
    run = Run(tmp_path / "run", plugins, prompts=())
    run.hook.mmalign_run_start(run=run)
    for step, held_out in enumerate((-0.1, -0.2, 0.0, -0.1)):
        run.hook.mmalign_evaluated(run=run, step=step, results=results(0.1, held_out))
    assert len(run.warnings) == 2
    assert "step 0: reward hacking is likely" in run.warnings[0]
    assert "trained clip rose by 0.100 ± 0.010" in run.warnings[0]
    assert "held-out oracle fell by 0.100 ± 0.010" in run.warnings[0]
    run.checkpoint()
    again = Run(tmp_path / "run", plugins, resume=True, prompts=())
    again.hook.mmalign_run_start(run=again)
    again.hook.mmalign_evaluated(run=again, step=5, results=results(0.1, -0.1))
    assert again.warnings == []


# ---- progress -------------------------------------------------------------------------------------------------------


def test_the_introduction_names_the_effective_batch(tmp_path):
    run = Run(tmp_path / "run", [])
    run.engine.world = 4
    run.feed.rows_per_batch = 12
    run.parts.policy.network.bias.requires_grad_(False)
    text = "\n".join(progress.introduction(run))
    assert "24 = 3 rows x 2 accumulated x 4 processes" in text
    assert "2 of 3 parameters" in text
    assert "12 rows, seen 8.0 times" in text


def test_a_pipe_gets_about_twenty_lines_with_the_first_and_the_last(tmp_path, capsys):
    Run(tmp_path / "run", [progress], trainer={"steps": 1003}, prompts=()).go()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) <= progress.LINES + 2
    assert lines[0].startswith("step 1/1003  loss 1")
    assert lines[-1].startswith("step 1003/1003")
    assert lines[-1].endswith("0 s left")


def test_the_pace_is_that_of_the_steps_alone(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    pace = progress.Pace()
    for waiting in (100.0, 1000.0):
        clock.now += waiting
        pace.skip()
        clock.now += 2.0
        pace.step()
    assert pace.told(left=60) == "2 s/step  2 min 00 s left"


def test_a_terminal_gets_a_bar_that_is_closed_at_the_end(tmp_path, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(console, "CONSOLE", terminal)
    Run(tmp_path / "run", [progress, evaluation], every=2).go()  # evaluations draw a bar below the bar
    assert "4/4" in screen.getvalue()
    assert "evaluating step 2" in screen.getvalue()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h")  # cursor hidden and shown


def test_progress_beside_a_result_leaves_the_output_to_the_result(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET", -1.0)
    with console.aside(True):
        assert list(console.track(range(3), "batches")) == [0, 1, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert "batches: 2/3" in said.err


def test_a_failed_run_says_how_to_go_on(tmp_path, capsys):
    run = Run(tmp_path / "run", [progress, checkpoints], trainer={"checkpoint_every": 2}).go(until=3)
    run.end(KeyboardInterrupt())
    said = capsys.readouterr().out
    assert "ended at step 3 of 4: KeyboardInterrupt" in said
    assert f"{run.folder / 'checkpoints' / 'step-000002'} with --resume" in said


# ---- together -------------------------------------------------------------------------------------------------------


def test_the_whole_set_makes_a_run_folder_with_a_report_of_the_last_evaluation(tmp_path, capsys):
    run = Run(tmp_path / "run", PLUGINS, every=2).go()
    page = (run.folder / "report.html").read_text()
    assert "The trained reward bright rose from" in page
    assert "the held-out reward dark fell from" in page
    said = capsys.readouterr().out
    assert str(run.folder / "report.html") in said
    assert "reward hacking is likely" in said


def test_a_failed_run_gets_a_report_too_and_keeps_its_error(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", PLUGINS).go(until=2)
    run.end(RuntimeError("out of memory"))
    assert "not finished: step 2 of 4" in (run.folder / "report.html").read_text()
    (run.folder / "metrics.jsonl").write_text("broken\nbroken\n")
    run.end(RuntimeError("out of memory"))  # the report cannot be written now, and that is not what is raised


def test_a_report_is_written_even_when_the_last_evaluation_breaks(tmp_path):
    run = Run(tmp_path / "run", PLUGINS).go(until=4)
    run.parts.judges["dark"] = Judge("held-out", lambda samples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.end()
    assert (run.folder / "report.html").is_file()
    assert written(run) == ["step-000004"]


def test_two_runs_in_one_process_share_nothing(tmp_path):
    one = Run(tmp_path / "one", PLUGINS, trainer={"steps": 9})
    two = Run(tmp_path / "two", PLUGINS, trainer={"steps": 9})
    for run in (one, two):
        run.hook.mmalign_run_start(run=run)
    for _ in range(4):
        one.advance(skipped=1.0)
        two.advance()
    two.advance(skipped=1.0)  # the fifth in a row if they shared a count
    for run in (one, two):
        run.end()
    assert len(files.read_rows(one.folder / "metrics.jsonl")) == 4
    assert len(files.read_rows(two.folder / "metrics.jsonl")) == 5
    for states in (trackers._open, finite._counts, accountability._watches, progress._shown):
        assert one not in states
        assert two not in states


def test_listing_plugins_does_not_wait_for_torch():
    code = "import sys, mmalign.builtin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
