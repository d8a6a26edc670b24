"""Self-correction: what the model is told after its first answer, and the pairs that come of both answers."""

import json
import math
from pathlib import Path

import pytest
import torch
from command_line import here

from mmalign import compose, plugins
from mmalign.config import load
from mmalign.data.texts import TextPrompts
from mmalign.records import Prompt, Samples, Turn
from mmalign_lvlm.corrections import pairs
from mmalign_lvlm.guidance.self_correction import REVIEWS, SelfCorrection


class Speaker:
    """Says what it was asked last, and the seed; remembers all that it was asked."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def sample(self, prompts, seeds):
        self.asked += prompts
        return Samples(prompts, [f"{p.text[:3]} {seed}" for p, seed in zip(prompts, seeds, strict=True)], seeds)


def test_the_second_answer_follows_the_first_and_a_review():
    speaker, prompts = (
        Speaker(),
        [Prompt("why", {"answer": "so"}, ("a.png",), [Turn("system", "be kind")]), Prompt("who")],
    )
    found = SelfCorrection(("again",))(speaker, None, prompts, [4, 5])
    assert (found.prompts, found.seeds) == (prompts, [4, 5])
    assert all(said.startswith("aga ") for said in found.responses)
    first, second = speaker.asked[2:]
    assert [*first.turns] == [
        Turn("system", "be kind"),
        Turn("user", "why"),
        Turn("assistant", "why 4"),
        Turn("user", "again"),
    ]
    assert first.images == ("a.png",)
    assert [turn.text for turn in second.turns] == ["who", "who 5", "again"]
    assert not {"aga 4", "aga 5"} & set(found.responses)  # not the random numbers of the first answers once more


def test_every_review_is_asked_by_some_seed_and_always_the_same_by_one():
    asked = [SelfCorrection().reviewed(Prompt("why"), "so", seed).text for seed in range(40)]
    assert set(asked) == set(REVIEWS)
    assert asked == [SelfCorrection().reviewed(Prompt("who"), "you", seed).text for seed in range(40)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 0.0], ("first", "second")),
        ([0.0, 1.0], ("second", "first")),  # whichever is right
        ([0.5, 0.4], ("first", "second")),  # at the threshold it is
        ([0.9, 0.6], None),  # both are
        ([0.4, 0.1], None),  # neither is
        ([None, 1.0], None),  # nobody knows, which is not wrong
    ],
)
def test_a_pair_needs_exactly_one_right_answer(scores, expected):
    found = list(pairs({"row": 3, "answers": ["first", "second"], "scores": scores}, 0.5))
    assert found == ([(3, *expected)] if expected else [])


CONFIG = """
name: small
folder: {folder}/runs
model: &model {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data:
  type: self-corrections
  path: {folder}/rows.jsonl
  template: "is {{prompt}}"
  model: *model
  sampling: {{max_new_tokens: 6}}
  rewards: [{{type: regex, pattern: red}}]
  reviews: [is this red, what is there]
  batch_size: 5
  folder: {folder}/kept
objective: {{type: weighted-sum, losses: {{dpo: {{weight: 1.0, beta: 0.1}}, sft: {{weight: 0.1}}}}}}
evaluation:
  prompts: {{type: text-prompts, path: {folder}/rows.jsonl}}
  rewards: [{{type: regex, pattern: red}}]
  guidance: self-correction
sampling: {{max_new_tokens: 6}}
trainer: {{steps: 2, batch_size: 2, learning_rate: 1.0e-2}}
"""


@pytest.fixture
def config(llava: Path, picture_files: list[Path], tmp_path: Path) -> Path:
    """Of a run on twelve questions."""
    asked = ["what is this", "this a circle", "what is there", "there a square", "this and what", "two"] * 2
    rows = [{"prompt": text, "images": [str(picture_files[i // 6])]} for i, text in enumerate(asked)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small.yaml").write_text(CONFIG.format(folder=tmp_path, llava=llava))
    return tmp_path / "small.yaml"


def mmalign(*arguments: str | Path) -> str:
    done = here(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_learns_from_its_own_two_answers(config: Path) -> None:
    told = mmalign("train", config)
    (file,) = config.parent.glob("kept/*.jsonl")
    assert f"self-corrections: 12 questions answered twice, see {file}" in told
    lines = (config.parent / "runs/small/metrics.jsonl").read_text().splitlines()
    first = next(json.loads(line) for line in lines if "loss" in line)
    assert first["dpo"] == pytest.approx(math.log(2), abs=1e-5)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["row"] for row in kept] == list(range(12))
    assert [row["prompt"] for row in kept][:2] == ["is what is this", "is this a circle"]
    assert all([float("red" in said) for said in row["answers"]] == row["scores"] for row in kept)

    made = file.stat().st_mtime_ns
    mmalign("train", config, "name=again")  # nothing is answered again
    assert [one.stat().st_mtime_ns for one in config.parent.glob("kept/*.jsonl")] == [made]
    mmalign("train", config, "name=other", "data.seed=1")
    assert len(list(config.parent.glob("kept/*.jsonl"))) == 2


def test_rows_are_the_question_alone_with_the_right_answer_first(config: Path) -> None:
    chosen = compose.choose(load(config), plugins.load())
    torch.manual_seed(0)
    rows = chosen.data.build()
    kept = [json.loads(line) for line in next(config.parent.glob("kept/*.jsonl")).read_text().splitlines()]
    decided = [row for row in kept if sum(row["scores"]) == 1]
    assert len(rows) == len(decided)
    assert {row["scores"][0] for row in decided} == {0.0, 1.0}  # both ways
    for i, row in enumerate(decided):
        right = row["scores"].index(1.0)
        found = rows[i]
        assert (found["chosen"], found["rejected"]) == (row["answers"][right], row["answers"][1 - right])
        assert (found["prompt"].text, found["prompt"].history) == (row["prompt"], ())
        assert len(found["prompt"].images) == 1


def test_answers_are_those_of_the_model_before_and_after_the_review(config: Path) -> None:
    chosen = compose.choose(load(config), plugins.load())
    chosen.data.build()
    kept = [json.loads(line) for line in next(config.parent.glob("kept/*.jsonl")).read_text().splitlines()]
    policy, questions = (
        compose.build_policy(chosen),
        TextPrompts(str(config.parent / "rows.jsonl"), template="is {prompt}"),
    )
    asked = [questions[i]["prompt"] for i in range(12)]
    first = policy.sample(asked, list(range(12))).responses
    second = SelfCorrection(("is this red", "what is there"))(policy, None, asked, list(range(12))).responses
    assert [row["answers"] for row in kept] == [list(both) for both in zip(first, second, strict=True)]
    assert first != second


def test_without_any_pair_it_says_so(config: Path) -> None:
    done = here("train", config, "data.right=2")
    assert done.returncode == 2
    assert "rows.jsonl: of no question exactly one answer is right" in done.stderr
    assert not (config.parent / "runs").exists()
