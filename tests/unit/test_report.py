"""The report: what it says of runs that went well, badly or not far, and that it needs nothing but itself."""

import base64
import json
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.builtin import files
from mmalign.builtin.statistics import paired
from mmalign.errors import UserError
from mmalign.report import write
from mmalign.report.charts import BOTTOM, LEFT, MOST_POINTS, RIGHT, TOP, Scale, Series, curve, points, round_step
from mmalign.report.page import differences, flat, training_charts
from mmalign.report.reading import read
from mmalign.report.verdict import judgement, status, verdict

VOID = {"meta", "img", "br", "line", "path", "circle"}
COLUMNS = ("clip", "oracle")


def png(width: int) -> bytes:
    """The beginning of a PNG, as far as the report reads it."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, width, 8, 2, 0, 0, 0)


def make_run(folder: Path, steps=4, planned=4, lift=0.5, fall=0.5, rate=1e-4, pictures=True, evaluated=True) -> Path:
    """A run folder in which clip rises by `lift` and oracle falls by `fall`."""
    folder.mkdir(parents=True)
    config = {
        "name": folder.name,
        "model": {"type": "diffusers"},
        "objective": {"type": "alignprop"},
        "evaluation": {"prompts": {"type": "prompts", "path": "<prompts>.txt"}},
        "trainer": {"steps": planned, "learning_rate": rate},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "packages": {"torch": "2.11"}}))
    files.write_rows(
        folder / "metrics.jsonl", [{"step": s, "loss": 1 / s, "skipped": 0.0} for s in range(1, steps + 1)]
    )
    files.write_rows(folder / "timing.jsonl", [{"step": s, "seconds": 2.0} for s in range(1, steps + 1)])
    if steps >= planned:
        (folder / "model").mkdir()
    if evaluated:
        before, after = evaluate(folder, 0, 0, 0, pictures), evaluate(folder, steps, lift, -fall, pictures)
        roles = {"clip": "trained", "oracle": "held-out"}
        rewards = {name: {"role": roles[name], **paired(before[name], after[name])} for name in COLUMNS}
        files.write(folder / "evaluation.json", files.to_json({"rewards": rewards}))
    return folder


def evaluate(folder: Path, step: int, clip: float, oracle: float, pictures: bool) -> dict[str, list[float]]:
    jitter = [0.0, 0.01, 0.02, 0.03]
    scores = {"clip": [0.2 + clip * (1 + j) + j for j in jitter], "oracle": [0.7 + oracle * (1 - j) for j in jitter]}
    rows = [
        {"prompt": f"a <b> & {i}", "seed": i, "scores": {name: scores[name][i] for name in COLUMNS}} for i in range(4)
    ]
    files.write_rows(folder / "evaluation" / f"{files.step_name(step)}.jsonl", rows)
    if pictures:
        shown = folder / "samples" / files.step_name(step)
        files.write_rows(shown / "samples.jsonl", [{**row, "sample": f"{row['seed']}.png"} for row in rows[:2]])
        for row in rows[:2]:
            (shown / f"{row['seed']}.png").write_bytes(png(64 if step else 512) + f"{clip} {row['seed']}".encode())
    return scores


class Page(HTMLParser):
    """Checks that every element is closed in order, and keeps links, text and pictures."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.links, self.sources, self.words, self.tags = [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        self.sources += [value for name, value in attrs if name == "src"]
        self.links += [value for name, value in attrs if name in ("href", "action", "srcset")]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


# ---- pages ----------------------------------------------------------------------------------------------------------


def test_one_run_gets_its_report_in_its_folder_and_it_stands_alone(tmp_path):
    folder = make_run(tmp_path / "demo")
    assert write([folder]) == folder / "report.html"
    page = Page(folder / "report.html")
    assert page.links == []
    assert "script" not in page.tags
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    source = (folder / "report.html").read_text()
    assert "http" not in source
    assert "url(" not in source
    for title in ("Before and after, measured", "Same prompt, same seed", "Training", "Time", "Config", "Environment"):
        assert title in page.text


def test_pictures_stand_side_by_side_before_first_and_small_ones_keep_their_pixels(tmp_path):
    folder = make_run(tmp_path / "demo")
    page = Page(write([folder]))
    shown = [base64.b64decode(source.partition(",")[2]) for source in page.sources]
    written = [folder / "samples" / step / f"{i}.png" for i in (0, 1) for step in ("step-000000", "step-000004")]
    assert shown == [path.read_bytes() for path in written]
    assert (folder / "report.html").read_text().count("class=tiny") == 2  # the ones after, 64 pixels wide


def filmed(folder: Path, name: str) -> None:
    """A video and a contact sheet for the first prompt, in `samples/name`."""
    shown = folder / "samples" / name
    row = {"prompt": "a <b> & 0", "seed": 0, "scores": {"clip": 0.5}, "sample": "0000.mp4"}
    files.write_rows(shown / "samples.jsonl", [row])
    (shown / "0000.mp4").write_bytes(f"video {name}".encode())
    (shown / "grid.png").write_bytes(png(512) + name.encode())


@pytest.mark.parametrize("last", ["step-000004", "guided"])
def test_videos_are_played_and_shown_frame_by_frame(last, tmp_path):
    """Those of a run that trains nothing, but samples under guidance, too."""
    folder = make_run(tmp_path / "demo", pictures=False)
    for name in ("step-000000", last):
        filmed(folder, name)
    page = Page(write([folder]))
    shown = [base64.b64decode(source.partition(",")[2]) for source in page.sources]
    files_of = [folder / "samples" / name / file for file in ("0000.mp4", "grid.png") for name in ("step-000000", last)]
    assert shown == [path.read_bytes() for path in files_of]
    assert page.tags.count("video") == 2
    assert "Contact sheets" in page.text
    assert ("guided" in page.text) == (last == "guided")


def test_the_contact_sheet_of_one_base_model_is_shown_once(tmp_path):
    folders = [make_run(tmp_path / name, pictures=False) for name in ("one", "other")]
    for folder in folders:
        filmed(folder, "step-000000")
    page = Page(write(folders, tmp_path / "both.html"))
    assert len(page.sources) == 2


def test_what_the_run_was_given_is_never_read_as_markup(tmp_path):
    folder = make_run(tmp_path / "demo")
    files.write_rows(folder / "warnings.jsonl", [{"step": 1, "message": "<script>alert(1)</script>"}])
    source = write([folder]).read_text()
    assert "<script" not in source
    assert "&lt;script&gt;" in source
    assert "a &lt;b&gt; &amp; 0" in source
    assert "&lt;prompts&gt;.txt" in source


def test_the_same_warning_is_shown_once(tmp_path):
    folder = make_run(tmp_path / "demo")
    files.write_rows(folder / "warnings.jsonl", [{"step": 2, "message": "mind the oracle"}] * 2)
    assert Page(write([folder])).text.count("mind the oracle") == 1


def test_several_runs_are_laid_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "runs" / "a"), make_run(tmp_path / "runs" / "b", lift=0.3, rate=3e-4)]
    assert write(runs) == Path("comparison.html")
    page = Page(Path("comparison.html"))
    assert "comparison of 2 runs" in page.text
    assert "trainer.learning_rate 0.0001 0.0003" in page.text
    # a, b and, since both began with the same pictures, one "before"
    assert len(page.sources) == 2 * 3
    svg = re.search(r"<svg[^>]*clip by step.*?</svg>", Path("comparison.html").read_text(), re.S).group()
    assert 'class="run-0"' in svg
    assert 'class="run-1"' in svg


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / "x" / "same"), make_run(tmp_path / "y" / "same")]
    text = Page(write(runs, tmp_path / "out.html")).text
    assert str(runs[0]) in text
    assert str(runs[1]) in text


def test_the_report_goes_where_it_is_asked_to(tmp_path):
    assert write([make_run(tmp_path / "demo")], tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"


# ---- runs that are not whole ----------------------------------------------------------------------------------------


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: begun\nevaluation: {prompts: p.txt}\ntrainer: {steps: 9}\n")
    text = Page(write([folder])).text
    assert "not finished: step 0 of 9" in text
    assert "no evaluation after training yet" in text


def test_a_run_without_evaluation_says_so(tmp_path):
    folder = make_run(tmp_path / "demo", evaluated=False)
    config = json.loads((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(json.dumps({**config, "evaluation": {"prompts": None}}))
    assert "names no evaluation.prompts" in Page(write([folder])).text


def test_a_killed_run_is_reported_as_far_as_it_came(tmp_path):
    folder = make_run(tmp_path / "demo", steps=3, planned=10)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert "not finished: step 3 of 10" in Page(write([folder])).text


def test_pictures_that_are_gone_or_that_no_browser_shows_are_left_out(tmp_path):
    folder = make_run(tmp_path / "demo")
    (folder / "samples" / "step-000004" / "0.png").unlink()
    rows = files.read_rows(folder / "samples" / "step-000004" / "samples.jsonl")
    rows[1]["sample"] = "1.npy"
    (folder / "samples" / "step-000004" / "1.npy").write_bytes(b"x")
    files.write_rows(folder / "samples" / "step-000004" / "samples.jsonl", rows)
    assert len(Page(write([folder])).sources) == 2
    assert len(Page(write([make_run(tmp_path / "none", pictures=False)])).sources) == 0


def test_unscored_samples_and_single_samples_do_not_break_the_page(tmp_path):
    folder = make_run(tmp_path / "demo")
    rewards = {"clip": {"role": "trained", **paired([0.1, math.nan], [0.2, 0.3])}}  # one pair: no standard error
    rewards["oracle"] = {"role": "held-out", **paired([math.nan], [math.nan])}
    files.write(folder / "evaluation.json", files.to_json({"rewards": rewards}))
    text = Page(write([folder])).text
    assert "1 (1 unscored)" in text
    assert "oracle could not be compared" in text


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_run_is_refused_and_nothing_is_written(tmp_path, exists):
    folder = tmp_path / "other"
    if exists:
        folder.mkdir()
    with pytest.raises(UserError, match="is no run folder"):
        write([folder])
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [("config.yaml", "a: [1", "config.yaml: not YAML"), ("evaluation.json", "{\n,", "evaluation.json:2: not JSON")],
)
def test_a_broken_file_is_named(tmp_path, name, content, place):
    folder = make_run(tmp_path / "demo")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(place)):
        write([folder])


def test_no_run_at_all_is_refused():
    with pytest.raises(UserError, match="name at least one run"):
        write([])


# ---- words ----------------------------------------------------------------------------------------------------------


def test_the_verdict_has_both_rewards_before_after_and_their_difference(tmp_path):
    said = verdict(read(make_run(tmp_path / "demo", lift=0.5, fall=0.4)))
    assert said.startswith("The trained reward clip rose from 0.2150 to 0.7225 (+0.5075 ± 0.0032); the held-out reward")
    assert "oracle fell from 0.7000 to 0.3060 (-0.3940 ± 0.0026)" in said
    assert said.endswith("reward hacking is likely.")


@pytest.mark.parametrize(
    ("trained", "held_out", "expected"),
    [
        ([5], [5], "carries over"),
        ([5], [-5], "reward hacking is likely"),
        ([5], [5, -5], "reward hacking is likely"),
        ([5], [1], "clearly confirms"),
        ([5], [], "nothing shows that the gain is real"),
        ([1], [5], "did not clearly raise"),
        ([-5], [5], "did not clearly raise"),
    ],
)
def test_what_trained_and_held_out_mean_together(trained, held_out, expected):
    moves = [("trained", d) for d in trained] + [("held-out", d) for d in held_out]
    rewards = {f"r{i}": {"role": role, "difference": {"mean": d, "se": 1.0}} for i, (role, d) in enumerate(moves)}
    assert expected in judgement(rewards)


def test_rewards_that_are_all_held_out_allow_no_judgement_of_training():
    assert judgement({"r": {"role": "held-out", "difference": {"mean": 5.0, "se": 1.0}}}) == ""


def test_the_status_tells_finished_from_stopped_from_killed(tmp_path):
    assert status(read(make_run(tmp_path / "whole"))) == "finished, 4 steps"
    assert status(read(make_run(tmp_path / "killed", planned=9))) == "not finished: step 4 of 9"
    stopped = make_run(tmp_path / "stopped", planned=9)
    (stopped / "model").mkdir()
    assert status(read(stopped)) == "stopped early, at step 4 of 9"


def test_configs_are_compared_by_dotted_keys(tmp_path):
    assert flat({"a": {"b": [1, 2]}, "c": [{"d": None}]}) == {"a.b": "[1, 2]", "c.0.d": "None"}
    runs = [read(make_run(tmp_path / name, rate=rate)) for name, rate in (("a", 1e-4), ("b", 2e-4))]
    assert differences(runs) == {"trainer.learning_rate": ["0.0001", "0.0002"]}


# ---- charts ---------------------------------------------------------------------------------------------------------

RANGES = st.tuples(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.floats(1e-6, 1e6))
def test_steps_between_ticks_are_round_and_near_what_is_asked(least):
    step = round_step(least)
    assert least * (1 - 1e-6) <= step <= least * 2.5 * (1 + 1e-6)
    assert float(f"{step:.1e}") == pytest.approx(step)  # at most two digits


@given(RANGES)
def test_ticks_lie_within_the_drawing_and_say_where_they_are(bounds):
    scale = Scale(*bounds, BOTTOM, TOP)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert len({tick.text for tick in ticks}) == len(ticks)
    for tick in ticks:
        assert TOP - 0.1 <= tick.at <= BOTTOM + 0.1
        assert scale(float(tick.text)) == pytest.approx(tick.at, abs=0.06 * (BOTTOM - TOP))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 10)), min_size=1, max_size=9))
def test_every_point_and_its_error_bar_is_inside_the_drawing(values):
    line = [(float(i), y, se) for i, (y, se) in enumerate(values)]
    chart = points("r", "trained", [Series("run", 0, line)])
    for mark in chart.lines[0].marks:
        assert LEFT <= mark.x <= RIGHT
        assert TOP <= mark.high <= mark.y <= mark.low <= BOTTOM


def test_a_line_is_broken_where_a_value_is_missing():
    chart = curve("loss", [Series("run", 0, [(s, math.nan if s == 2 else float(s), math.nan) for s in range(5)])])
    assert chart.lines[0].path.count("M") == 2


def test_a_long_line_is_averaged_and_smoothed_but_keeps_its_mean_level():
    noisy = [(float(s), 5.0 + (-1) ** s, math.nan) for s in range(10_000)]
    line = curve("loss", [Series("run", 0, noisy)]).lines[0]
    assert line.raw.count("L") < MOST_POINTS
    heights = [float(word.split()[1]) for word in re.split("[ML]", line.path)[1:]]
    assert max(heights) - min(heights) < 0.2 * (BOTTOM - TOP)


def test_metrics_that_never_change_have_no_chart_and_the_loss_is_first(tmp_path):
    folder = make_run(tmp_path / "demo")
    rows = [
        {"step": s, "accuracy": 0.1 * s, "loss": 1 / s, "learning_rate": 1e-4, "grad_norm": s, "reward/clip": s}
        for s in range(1, 5)
    ]
    files.write_rows(folder / "metrics.jsonl", rows)
    titles = [chart.title for chart in training_charts([read(folder)], ["demo"])]
    assert titles == ["loss", "reward/clip", "accuracy", "grad_norm"]


def test_a_metric_that_is_never_finite_is_left_out(tmp_path):
    folder = make_run(tmp_path / "demo")
    files.write_rows(folder / "metrics.jsonl", [{"step": s, "loss": math.nan} for s in range(1, 5)])
    assert list(training_charts([read(folder)], ["demo"])) == []
    write([folder])
