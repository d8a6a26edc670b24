"""Data sets are read once, row by row: every bad row is named; known layouts become mmalign's own."""

import base64
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmalign import UserError
from mmalign.builtin.parts import mmalign_datasets
from mmalign.cli import app
from mmalign.data.check import Checker, Readable
from mmalign.data.convert import convert
from mmalign.data.feedback import Preferences, Ratings
from mmalign.data.layouts import layout as layout_of
from mmalign.data.presets import PRESETS, preset
from mmalign.data.sources import Pairs, SampleRows
from mmalign.data.stream import lines
from mmalign.data.texts import TextPairs
from mmalign.errors import BadRow
from mmalign.feeds import Rows
from mmalign.records import Prompt

PNG = [b"\x89PNG one", b"\x89PNG other"]


def look(path: Path):
    """Reads files that say they are pictures."""
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG"):
        raise UserError(f"cannot read picture {path}")
    return torch.zeros(3, 0 if data.endswith(b"empty") else 4, 6)


@pytest.fixture
def pictures(tmp_path):
    for name, data in {
        "a.png": PNG[0],
        "b.png": PNG[1],
        "broken.png": b"no",
        "none.png": b"",
        "copy.png": PNG[0],
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "flat.png").write_bytes(b"\x89PNG empty")
    return tmp_path


def written(folder: Path, rows: list, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def faults(path: Path, layout: str = "mmalign"):
    checker = Checker(layout_of(layout), path.parent, look)
    return list(checker.file(path)), checker.summary


GOOD = {"prompt": "x", "chosen": "a.png", "rejected": "b.png"}


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"prompt": " "}, "prompt", "empty text"),
        ({"prompt": None}, "prompt", "empty text"),
        ({"prompt": 3}, "prompt", "must be text"),
        ({"chosen": "nowhere.png"}, "chosen", "no such file"),
        ({"chosen": "broken.png"}, "chosen", "cannot read picture"),
        ({"rejected": "none.png"}, "rejected", "empty file"),
        ({"rejected": "flat.png"}, "rejected", "zero-size"),
        ({"rejected": ""}, "rejected", "no picture"),
        ({"rejected": "a.png"}, "chosen, rejected", "identical sides"),
        ({"rejected": "copy.png"}, "chosen, rejected", "identical sides"),
        ({"scores": [1, 1]}, "scores", "tie"),
        ({"prompt": "\udcff"}, "prompt", "not UTF-8"),
    ],
)
def test_a_bad_row_is_named_with_its_column_and_reason(change, column, reason, pictures):
    path = written(pictures, [GOOD, {**GOOD, **change}, GOOD])
    found, summary = faults(path)
    assert [(cell.row, cell.column) for cell in found] == [(2, column)]
    assert reason in found[0].reason
    assert (summary.rows, summary.bad) == (3, 1)


def test_all_that_is_wrong_is_told_and_reading_goes_on(pictures):
    path = pictures / "rows.jsonl"
    row = json.dumps(GOOD)
    path.write_bytes(
        f'{row}\nno json\n[1]\n{{"prompt": "x"}}\n\n'.encode() + b'{"prompt": "\xff", "chosen": "a.png"}\n'
    )
    found, summary = faults(path)
    told = [(cell.row, cell.column) for cell in found]
    assert told == [(2, ""), (3, ""), (4, "chosen"), (4, "rejected"), (6, "prompt"), (6, "rejected")]
    assert summary.bad == 4


def records(layout: str) -> list[dict]:
    """A row of each known layout whose second side wins, or a tie where the layout knows them."""
    sides = {"jpg_0": PNG[0], "jpg_1": PNG[1]}
    votes = {"path_A": "a.png", "path_B": "b.png", "prompt": "x"}
    return {
        "pick-a-pic": [{"caption": "x", **sides, "label_0": 0.0}, {"caption": "x", **sides, "label_0": 0.5}],
        "hpdv2": [{"prompt": "x", "file_path": ["a.png", "b.png"], "human_preference": [0, 1]}],
        "videoalign": [
            {**votes, "VQ": "B", "MQ": "same", "TA": "B"},
            {**votes, "VQ": "A", "MQ": "same", "TA": "B"},
        ],
    }[layout]


def file_of(layout: str, folder: Path) -> Path:
    rows = records(layout)
    if layout == "pick-a-pic":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
        return folder / "rows.parquet"
    if layout == "hpdv2":
        (folder / "rows.json").write_text(json.dumps(rows, indent=1))
        return folder / "rows.json"
    names = list(rows[0])
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


@pytest.mark.parametrize("layout", ["pick-a-pic", "hpdv2", "videoalign"])
def test_a_known_layout_converts_and_trains_the_same(layout, pictures):
    path = file_of(layout, pictures)
    found, summary = faults(path, layout)
    assert found == []
    assert summary.ties == len(records(layout)) - 1
    checker = Checker(preset(layout), pictures, look)
    assert list(convert(path, checker, pictures / "own")) == []
    direct, own = Pairs(str(path), layout), Pairs(str(pictures / "own/pairs.jsonl"))
    assert len(direct) == len(own) == 1

    def content(media):
        return media if isinstance(media, bytes) else media.read_bytes()

    for side, expected in (("chosen", PNG[1]), ("rejected", PNG[0])):
        assert content(direct[0][side]) == content(own[0][side]) == expected
    if layout == "videoalign":
        row = json.loads((pictures / "own/pairs.jsonl").read_text())
        assert row["preferences"] == {"VQ": "chosen", "MQ": "tie", "TA": "chosen"}
    assert not list((pictures / "own").rglob("*.partial"))


@pytest.mark.parametrize("folded", [True, False])
def test_rlhf_v_converts_and_trains_the_same(folded, pictures):
    inner = {"question": "What?", "chosen": "A cat.", "rejected": "A dog."}
    row = {"image_path": "a.png", **({"text": json.dumps(inner)} if folded else inner)}
    path = written(pictures, [row])
    checker = Checker(preset("rlhf-v"), pictures, look)
    assert list(convert(path, checker, pictures / "own")) == []
    expected = {"chosen": "A cat.", "rejected": "A dog."}
    direct, own = TextPairs(str(path), "rlhf-v")[0], TextPairs(str(pictures / "own/pairs.jsonl"))[0]
    assert direct == {"prompt": Prompt("What?", images=(pictures / "a.png",)), **expected}
    assert own["prompt"].images[0].resolve() == (pictures / "a.png").resolve()
    assert {**own, "prompt": own["prompt"].text} == {"prompt": "What?", **expected}


@pytest.mark.parametrize("source", [Pairs, SampleRows, Preferences, Ratings])
def test_what_a_prompt_of_media_shows_comes_with_it(source, pictures):
    sides = {"chosen": "a.png", "rejected": "b.png", "first": "a.png", "second": "b.png", "preference": "first"}
    row = {"prompt": "a wave", "sample": "a.png", "rating": 1.0, **sides, "images": ["b.png"]}
    prompt = source(str(written(pictures, [row])))[0]["prompt"]
    assert (prompt.text, prompt.images) == ("a wave", (pictures / "b.png",))


def test_a_label_out_of_range_is_named_and_stops_training(pictures):
    path = written(pictures, [{"prompt": "x", "path_A": "a.png", "path_B": "b.png", "VQ": "A", "MQ": "A", "TA": "C"}])
    (cell,), _ = faults(path, "videoalign")
    assert cell[:2] == (1, "TA")
    with pytest.raises(BadRow, match="row 1, column TA: label out of range"):
        Pairs(str(path), "videoalign")


def test_answers_that_are_no_answers_are_named(pictures):
    row = {"prompt": "x", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}
    (cell,), _ = faults(written(pictures, [row]), "trl")
    assert "message of the assistant" in cell.reason


def test_a_file_is_not_read_at_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x"}\n' * 3)
    reader = lines(path)
    assert next(reader).number == 1
    with open(path, "a") as file:
        file.write("no json\n")
    assert [line.reason[:8] for line in reader] == ["", "", "not JSON"]


def test_a_long_json_list_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("mmalign.data.stream._CHUNK", 7)
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": "x" * n} for n in range(30)]))
    assert [len(line.row["prompt"]) for line in lines(tmp_path / "rows.json")] == list(range(30))
    (tmp_path / "torn.json").write_text('[{"prompt": "x"}, {"pro')
    assert [line.row is None for line in lines(tmp_path / "torn.json")] == [False, True]


def test_every_preset_names_its_columns():
    assert all(layout.columns for layout in PRESETS.values())


# ---- mmalign's own layouts by the names of their sources

SAID = {"prompt": "What?", "completion": "A cat.", "images": ["a.png"]}
TWO = {"prompt": "What?", "first": "A cat.", "second": "A dog.", "preference": "first"}
SEEN = {"prompt": "x", "sample": "a.png"}
OWN = {
    "pairs": (GOOD, {"rejected": "a.png"}, "identical sides"),
    "unpaired": (GOOD, {"chosen": ""}, "holds no picture"),
    "goal-pairs": ({**GOOD, "scores": [2, 1]}, {"scores": None}, "no `scores`"),
    "samples": (SEEN, {"sample": "none.png"}, "empty file"),
    "labelled": ({**SEEN, "label": 1}, {"label": 7}, "label out of range"),
    "scored": ({**SEEN, "score": 0.5}, {"score": "much"}, "is no finite number"),
    "ratings": ({**SEEN, "rating": 4}, {"rating": None}, "no rating"),
    "preferences": (
        {"prompt": "x", "first": "a.png", "second": "b.png", "preferences": {"a": "first", "b": None}},
        {"second": "broken.png"},
        "cannot read picture",
    ),
    "prompts": ({"prompt": "x"}, {"prompt": ""}, "empty text"),
    "directions": ({"prompt": "x"}, {"prompt": ""}, "empty text"),
    "text-prompts": ({"prompt": "x", "images": ["a.png"]}, {"images": ["nowhere.png"]}, "no such file"),
    "text-directions": ({"prompt": "x"}, {"prompt": 3}, "neither a text nor a list"),
    "text-pairs": (
        {"prompt": "x", "chosen": "A cat.", "rejected": "A dog.", "images": ["a.png"]},
        {"images": ["a.png", "broken.png"]},
        "cannot read picture",
    ),
    "text-unpaired": ({"prompt": "x", "chosen": "A cat.", "rejected": "A dog."}, {"rejected": "A cat."}, "identical"),
    "text-goal-pairs": (
        {"prompt": "x", "chosen": "A cat.", "rejected": "A dog.", "scores": [2, 1]},
        {"scores": [2]},
        "holds two numbers",
    ),
    "text-samples": (SAID, {"completion": " "}, "an answer is empty"),
    "text-scored": ({**SAID, "score": 1}, {"score": None}, "is no finite number"),
    "text-ratings": ({**SAID, "ratings": {"a": 1, "b": None}}, {"ratings": {"a": "good"}}, "'good' is no rating"),
    "text-preferences": (TWO, {"second": "A cat."}, "both sides are the same"),
    "text-segments": (
        {**SAID, "segments": [[0, 5, {"object": "faithful"}]]},
        {"segments": [[0, 99, {"object": "faithful"}]]},
        "is not within the answer",
    ),
}


def test_every_source_has_a_layout_to_be_checked_as():
    assert {spec.name for spec in mmalign_datasets()} == set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_what_a_source_cannot_read_is_found_by_the_check_of_its_name(name, pictures):
    good, change, reason = OWN[name]
    found, summary = faults(written(pictures, [good, {**good, **change}]), name)
    assert [cell.row for cell in found] == [2], found
    assert reason in found[0].reason
    assert (summary.rows, summary.bad, summary.ties) == (2, 1, 0)


def test_ties_among_preferences_are_counted_and_are_no_fault(pictures):
    path = written(pictures, [TWO, {**TWO, "preference": "tie"}, {**TWO, "second": "A cat.", "preference": 0}])
    found, summary = faults(path, "text-preferences")
    assert (found, summary.ties) == ([], 2)


def test_numbers_of_a_file_without_types_are_numbers(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,completion,rating\nWhat?,A cat.,4\nWhat?,A dog.,good\n")
    (cell,), _ = faults(tmp_path / "rows.csv", "text-ratings")
    assert (cell.row, cell.reason) == (2, "'good' is no rating: it is a number, or null where there is none")


def test_a_file_is_checked_as_the_type_of_its_data(run, tmp_path):
    path = written(tmp_path, [{"prompt": "x", "completion": "y", "rating": 1}, {"prompt": "x", "completion": "y"}])
    outcome = run("check", path, "--preset", "text-ratings")
    assert outcome.exit_code == 2
    assert "row 2: no rating: give a number" in outcome.output


# ---- bad rows in training -------------------------------------------------------------------------------------------


def test_a_bad_row_stops_or_the_next_takes_its_place(pictures):
    path = written(pictures, [GOOD, {**GOOD, "chosen": "broken.png"}, {**GOOD, "prompt": "y"}, {**GOOD, "prompt": ""}])
    rows = Readable(Pairs(str(path)), look)
    with pytest.raises(BadRow, match="row 2: cannot read picture"):
        next(Rows(rows, 4, seed=0))
    feed = Rows(rows, 4, seed=0, skip_bad=True)
    assert sorted(prompt.text for prompt in next(feed)["prompt"]) == ["x", "x", "y", "y"]
    assert sorted(feed.skipped) == [1, 3]
    again = Rows(rows, 4, seed=0, skip_bad=True)
    again.load_state_dict(feed.state_dict())
    assert again.skipped == feed.skipped


def test_nothing_but_bad_rows_is_an_error(pictures):
    feed = Rows(Readable(Pairs(str(written(pictures, [{**GOOD, "chosen": "broken.png"}]))), look), 1, 0, skip_bad=True)
    with pytest.raises(UserError, match="every row is bad"):
        next(feed)


# ---- the verbs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(app, ["--no-plugins", "data", *map(str, arguments)])

    return invoke


def test_check_exits_with_2_and_names_the_file(run, tmp_path):
    path = written(tmp_path, [{"prompt": "x"}, {"prompt": ""}], "rows.jsonl")
    outcome = run("check", path, "--preset", "prompts")
    assert outcome.exit_code == 2
    assert f"{path}: row 2, column prompt: empty text" in outcome.output
    told = json.loads(run("check", path, "--preset", "prompts", "--json").output)
    assert (told["rows"], told["bad"], told["faults"]) == (
        2,
        1,
        [{"row": 2, "column": "prompt", "reason": "empty text"}],
    )
    (tmp_path / "good.txt").write_text("one\ntwo\n")
    assert run("check", tmp_path / "good.txt").exit_code == 0


def test_media_that_nobody_reads_are_counted(run, pictures):
    outcome = run("check", written(pictures, [GOOD]))
    assert outcome.exit_code == 0
    assert "not looked into: 2 .png" in outcome.output


def test_info_and_convert(run, pictures):
    path = file_of("pick-a-pic", pictures)
    told = json.loads(run("info", path, "--preset", "pick-a-pic", "--json").output)
    assert (told["rows"], told["ties"], told["columns"]["caption"], told["lengths"]["caption"]["mean"]) == (
        2,
        1,
        "str",
        1,
    )
    outcome = run("convert", path, "--preset", "pick-a-pic", "--out", pictures / "own")
    assert outcome.exit_code == 0
    assert "2 rows, 0 bad, 1 ties" in outcome.output
    assert run("convert", path, "--preset", "pick-a-pic", "--out", pictures / "own").exit_code == 2


def test_a_misspelt_preset_is_an_error(run, tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    outcome = run("check", tmp_path / "a.jsonl", "--preset", "pick-a-pik")
    assert outcome.exit_code == 2
    assert "did you mean 'pick-a-pic'" in outcome.output


def test_the_bytes_of_a_picture_are_looked_into():
    checker = Checker(preset("samples"), Path(), look)
    bad = base64.b64decode("AAAA")
    assert [reason for _, reason in checker.row({"prompt": "x", "sample": bad})] == [
        "cannot read picture in 3 bytes of data"
    ]
