"""Rows of texts in TRL's columns, plain and conversational, with pictures."""

import pytest

from mmalign import UserError
from mmalign.data.texts import TextPairs, TextPrompts, TextSamples
from mmalign.errors import BadRow
from mmalign.records import Prompt, Turn

USER, GOOD, BAD = (
    {"role": role, "content": text}
    for role, text in [("user", "What?"), ("assistant", "A cat."), ("assistant", "A dog.")]
)
SHOWN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [SHOWN], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [SHOWN, GOOD], "rejected": [SHOWN, BAD]},
    ],
)
@pytest.mark.parametrize("column", ["image", "images"])
def test_every_layout_of_a_pair_reads_the_same(row, column, write, tmp_path):
    found = TextPairs(write({**row, column: "cat.png" if column == "image" else ["cat.png"]}))[0]
    assert found == {
        "prompt": Prompt("What?", images=(tmp_path / "cat.png",)),
        "chosen": "A cat.",
        "rejected": "A dog.",
    }


@pytest.mark.parametrize("row", [{"prompt": "What?", "completion": "A cat."}, {"messages": [USER, GOOD]}])
def test_every_layout_of_a_demonstration_reads_the_same(row, write):
    assert TextSamples(write(row))[0] == {"prompt": Prompt("What?"), "sample": "A cat."}


def test_what_was_said_before_stays_before(write):
    system = {"role": "system", "content": "Be brief."}
    found = TextPrompts(write({"prompt": [system, USER, GOOD, USER]}))
    assert len(found) == 1
    history = [Turn("system", "Be brief."), Turn("user", "What?"), Turn("assistant", "A cat.")]
    assert found[0]["prompt"] == Prompt("What?", history=tuple(history))


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        (TextPairs, {"prompt": "x"}, "needs the columns chosen, rejected; it has prompt"),
        (TextSamples, {"prompt": "x"}, "completion, prompt or messages"),
        (TextPrompts, {"prompt": [GOOD]}, "row 1: a prompt must end with what the user says"),
        (TextPrompts, {"prompt": 3}, "neither a text nor a list of messages"),
        (TextPrompts, {"prompt": [SHOWN], "images": []}, "shows 1 pictures, but there are 0"),
        (TextPrompts, {"prompt": [USER, GOOD, SHOWN], "images": ["a.png"]}, "a picture stands after words"),
        (TextPairs, {"prompt": "x", "chosen": [USER], "rejected": [BAD]}, "one message of the assistant, this is user"),
        (TextPairs, {"chosen": [USER, GOOD], "rejected": [USER]}, "a prompt must end with what the user says"),
        (TextPairs, {"prompt": "x", "chosen": [GOOD], "rejected": []}, "this is nothing"),
        (TextPrompts, {"prompt": [{"role": "user", "content": None}]}, "neither a text nor a list of messages"),
        (TextPrompts, {"prompt": [{"role": "user", "content": ["a"]}]}, "neither a text nor a list of messages"),
        (TextSamples, {"messages": [USER, 3]}, "neither a text nor a list of messages"),
        (TextSamples, {"messages": "What?"}, "a prompt must end with what the user says"),
        (TextPrompts, {"prompt": "x", "images": "a.png"}, r"row 1: `images` is a list of pictures.*not 'a\.png'"),
        (TextPrompts, {"prompt": "x", "images": [3]}, "row 1: '3' is no picture or video"),
        (TextPrompts, {"prompt": "x", "image": {"bytes": None, "path": None}}, "row 1: 'None' is no picture or video"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(source, row, message, write):
    with pytest.raises(UserError, match=message) as caught:
        source(write(row))[0]
    assert "rows.jsonl" in str(caught.value)


def test_a_row_that_lacks_what_the_first_one_has_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "x", "completion": "y"}\n{"prompt": "x", "competion": "y"}\n')
    with pytest.raises(BadRow, match=r"rows\.jsonl: row 2: no completion"):
        TextSamples(str(file))[1]


def test_lists_of_pictures_within_a_table_stay_bytes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = {"prompt": datasets.Value("string"), "images": datasets.List(datasets.Image())}
    rows = {"prompt": ["x"], "images": [[{"bytes": b"a picture", "path": None}]]}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(tmp_path / "rows.parquet")
    assert TextPrompts(str(tmp_path / "rows.parquet"))[0]["prompt"].images == (b"a picture",)
