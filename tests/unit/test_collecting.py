"""Collections: what is judged stays judged, whatever happens; mistakes in a config are told with their place."""

import json
from pathlib import Path

import pytest

from mmalign import RunFailure, UserError, collecting, collection, config, plugins
from mmalign.compose import Chosen
from mmalign.data.feedback import TextSegments

PLUGIN = '''
from mmalign import JudgeSpec, ModelSpec, hookimpl
from mmalign.records import Fact, Verdict

ASKED, SPENT = [], {"coins": 0}

class Letters:
    """Every letter is a thing; capitals are not there, and of "?" it gives no verdict. A "!" it cannot bear."""
    def __init__(self, mood: str = "fair"):
        pass
    def facts(self, answers):
        return [[[Fact("existence", a.text[s:e])] for s, e in a.spans] for a in answers]
    def verify(self, questions):
        texts = [fact.text for _, fact in questions]
        if "!" in texts:
            raise RuntimeError("as asked")
        ASKED.extend(texts)
        SPENT["coins"] += len(texts)
        return [Verdict("none" if t == "?" else "no" if t.isupper() else "yes") for t in texts]
    def spent(self):
        return dict(SPENT)

@hookimpl
def mmalign_judges():
    yield JudgeSpec("letters", Letters)
    yield JudgeSpec("reader", Letters, offers=frozenset({"facts"}))

@hookimpl
def mmalign_models():
    yield ModelSpec("painter", Letters, process="denoising")

@hookimpl
def mmalign_split(text):
    return [(i, i + 1) for i, letter in enumerate(text) if letter != "."]
'''
CONFIG = """\
name: letters
folder: {folder}/runs
plugins: [./letters.py]
data: {{type: text-samples, path: {folder}/rows.jsonl}}
judge: letters
collect: {{batch_size: 2}}
"""
SAID = ["aB", ".", "c?", "?", "d", "E", "fg"]


class World:
    """A folder with data, a judge and a config."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "letters.py").write_text(PLUGIN)
        (folder / "letters.yaml").write_text(CONFIG.format(folder=folder))
        (folder / "picture.png").write_bytes(b"...")
        self.write(SAID)

    def write(self, said):
        rows = [{"prompt": f"say {i}", "completion": text, "image": "picture.png"} for i, text in enumerate(said)]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def chosen(self, *overrides):
        document = collection.load(self.folder / "letters.yaml", overrides)
        self.found = plugins.load(document.config.plugins, installed=False)
        return collection.choose(document, self.found)

    def collect(self, *overrides, resume=False):
        chosen = self.chosen(*overrides)
        self.asked = chosen.judge.offer.spec.load().verify.__globals__["ASKED"]
        return collecting.collect(chosen, resume)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_result_is_feedback_that_can_be_read(world):
    folder = world.collect()
    assert world.asked == [letter for text in SAID for letter in text if letter != "."]
    rows = TextSegments(str(folder / "segments.jsonl"))
    read = [(rows[i]["prompt"].text, rows[i]["sample"], rows[i]["segments"]) for i in range(len(rows))]
    assert [(prompt, text) for prompt, text, _ in read] == [(f"say {i}", SAID[i]) for i in (0, 2, 3, 4, 5, 6)]
    labels = [[one.labels.get("existence") for one in segments] for *_, segments in read]
    assert labels == [
        ["faithful", "hallucinated"],
        ["faithful", None],
        [None],
        ["faithful"],
        ["hallucinated"],
        ["faithful"] * 2,
    ]
    assert rows[0]["prompt"].images[0].resolve() == (world.folder / "picture.png").resolve()
    told = collecting.summary(folder)
    assert (told["answers"], told["empty"], told["segments"], told["spent"]) == (7, 1, 9, {"coins": 9})
    assert told["verdicts"]["existence"] == {"yes": 5, "no": 2, "none": 2}


def test_a_killed_collection_goes_on_without_asking_again(world):
    whole = world.collect("name=whole")
    world.write([*SAID[:4], "!", *SAID[5:]])
    with pytest.raises(RuntimeError, match="as asked"):
        world.collect()
    assert world.asked == list("aBc??")
    journal = world.folder / "runs/letters/judged.jsonl"
    journal.write_text(journal.read_text() + '{"row": 4, "ans')  # torn by the kill
    world.write(SAID)
    folder = world.collect(resume=True)
    assert world.asked == list("dEfg") + list("c??")  # what had no verdict comes last, and whole
    assert (folder / "segments.jsonl").read_bytes() == (whole / "segments.jsonl").read_bytes()
    assert {**collecting.summary(folder), "spent": {"coins": 9}} == collecting.summary(whole)


def test_where_no_verdict_was_given_the_judge_is_asked_again(world, monkeypatch):
    def existence():
        return [[labels["existence"] for *_, labels in row["segments"]] for row in lines(folder / "segments.jsonl")]

    def now_says(none_of):
        (world.folder / "letters.py").write_text(PLUGIN.replace('"none" if t == "?"', f'"none" if t in {none_of!r}'))
        world.collect(resume=True)
        return "".join(world.asked)

    folder = world.collect()
    a, c, d = ["faithful", "hallucinated"], ["faithful", None], [["faithful"], ["hallucinated"], ["faithful"] * 2]
    assert existence() == [a, c, [None], *d]
    assert now_says("aBc?dEfg") == "c??"  # what had a verdict is not asked, or keeps it where it is
    assert existence() == [a, c, [None], *d]
    assert now_says("c") == "c??"  # of two lines that tell as much the later one counts
    assert existence() == [a, [None, "faithful"], ["faithful"], *d]
    assert now_says("") == "c?"
    assert existence() == [a, ["faithful"] * 2, ["faithful"], *d]
    told = collecting.summary(folder)
    assert (told["answers"], told["verdicts"]["existence"], told["spent"]) == (7, {"yes": 7, "no": 2}, {"coins": 17})
    monkeypatch.setattr(
        collecting, "built", lambda chosen: pytest.fail("parts are built although nothing is left to ask")
    )
    assert now_says("aBc?dEfg") == ""


def test_what_is_finished_is_left_alone(world):
    world.write([text.replace("?", "x") for text in SAID])
    folder = world.collect()
    before = (folder / "segments.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run: go on with --resume"):
        world.collect()
    world.collect(resume=True)
    assert world.asked == []
    assert (folder / "segments.jsonl").read_bytes() == before
    with pytest.raises(UserError, match=r"judge.mood \(fair -> foul\)"):
        world.collect("judge.mood=foul", resume=True)
    with pytest.raises(UserError, match="nothing to resume"):
        world.collect("name=other", resume=True)


def test_a_judge_that_says_nothing_at_all_is_a_failure(world):
    world.write(["?", "??"])
    chosen = world.chosen()
    chosen.judge.offer.spec.load().facts = lambda self, answers: [[None for _ in a.spans] for a in answers]
    with pytest.raises(RunFailure, match="no segment of any answer got a label"):
        collecting.collect(chosen)
    assert collecting.summary(chosen.folder)["unread"] == 3
    assert not (chosen.folder / "segments.jsonl").exists()
    collecting.collect(world.chosen(), resume=True)  # whose judge reads them again
    assert collecting.summary(chosen.folder)["unread"] == 0


def test_bad_rows_stop_or_are_left_out_and_counted(world):
    rows = (world.folder / "rows.jsonl").read_text().replace("picture.png", "nowhere.png", 1)
    (world.folder / "rows.jsonl").write_text(rows.replace('"completion": "d"', '"completion": 7'))
    with pytest.raises(UserError, match="row 5"):
        world.collect()
    folder = world.collect("name=skipping", "data.on_bad_row=skip")
    assert [row["row"] for row in lines(folder / "segments.jsonl")] == [2, 3, 5, 6]
    assert collecting.summary(folder)["skipped"] == 2


def test_pairs_are_two_answers(world):
    rows = [{"prompt": "say", "chosen": "ab", "rejected": "aB"}] * 2
    (world.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = world.collect("data.type=text-pairs")
    found = [(row["row"], row["answer"], row["completion"]) for row in lines(folder / "segments.jsonl")]
    assert found == [(0, "chosen", "ab"), (0, "rejected", "aB"), (1, "chosen", "ab"), (1, "rejected", "aB")]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["judge=lettres"], ["override 'judge=lettres': judge", "did you mean 'letters'"]),
        (["judge.mod=1"], ["judge.mod", "did you mean 'mood'"]),
        (["judge=reader"], ["judge", "gives no verdicts", "name another judge"]),
        (["data.type=text-prompts"], ["data", "no `model` to answer", "holds no answers"]),
        (["model=painter"], ["model", "does not answer in words"]),
        (["collect.batch_size=0"], ["collect.batch_size", "at least 1"]),
        (["trainer={steps: 1}"], ["trainer", "unknown key"]),
        (["judge=lettres", "data.type=text-sample"], ["lettres", "text-sample"]),
        (["collect.samples_per_prompt=2"], ["collect.samples_per_prompt", "no `model` that would answer"]),
        (["sampling.temprature=1"], ["sampling", "no `model` that would answer"]),
    ],
)
def test_a_mistake_is_told_with_its_place_before_anything_is_made(world, overrides, words):
    with pytest.raises(UserError) as caught:
        world.collect(*overrides)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (world.folder / "runs").exists()


def test_another_judge_may_find_the_facts(world):
    chosen = world.chosen("facts={type: reader, mood: foul}")
    assert collection.resolved(chosen)["facts"] == {"type": "reader", "mood": "foul"}
    assert len(lines(collecting.collect(chosen) / "segments.jsonl")) == 6


def test_each_verb_points_to_the_other(world):
    with pytest.raises(UserError, match="trains nothing: mmalign collect"):
        config.load(world.folder / "letters.yaml")
    (world.folder / "run.yaml").write_text("name: a\nobjective: dpo\n")
    with pytest.raises(UserError, match="names no `judge`"):
        collection.load(world.folder / "run.yaml")
    (world.folder / "run.yaml").write_text("name: a\nstages: []\n")
    with pytest.raises(UserError, match="holds stages"):
        collection.load(world.folder / "run.yaml")


STAGES = """\
name: two
folder: {folder}/runs
plugins: [./letters.py, ./words.py]
trainer: {{steps: 1}}
data: {{type: text-samples, path: {folder}/rows.jsonl}}
stages:
  - {{name: feedback, judge: letters}}
  - name: reward
    model: {{type: scorer, heads: {{names: [existence], classes: [absent, faithful, hallucinated]}}}}
    data: {{type: text-segments, path: "${{stages.feedback.segments}}"}}
    objective: segment-classification
"""
SCORER = """
from mmalign import ModelSpec, hookimpl
from mmalign.processes.scoring import Heads

def scorer(heads: Heads):
    raise AssertionError("checks build nothing")

@hookimpl
def mmalign_models():
    yield ModelSpec("scorer", scorer, process="scoring")
"""


@pytest.fixture
def staged(world):
    from mmalign import stages

    def open_(old="", new=""):
        (world.folder / "words.py").write_text(SCORER)
        (world.folder / "two.yaml").write_text(STAGES.format(folder=world.folder).replace(old, new))
        document = stages.load(world.folder / "two.yaml")
        return document, stages.choose_all(
            document, plugins.load(document.staged.plugins, world.folder, installed=False)
        )

    return open_


def test_a_stage_collects_and_later_ones_name_its_segments(world, staged, monkeypatch):
    from mmalign import rounds

    document, (feedback, reward) = staged()
    assert not isinstance(feedback.chosen, Chosen)
    assert (feedback.chosen.config.name, feedback.chosen.config.folder) == ("1-feedback", f"{world.folder}/runs/two")
    path = f"{world.folder}/runs/two/1-feedback/segments.jsonl"
    assert (reward.chosen.data.options["path"], reward.needs) == (path, ["1-feedback"])

    trained = []
    monkeypatch.setattr(rounds.run, "train", lambda chosen, resume: trained.append(Path(path).is_file()))
    assert [status.what for status in rounds.statuses([feedback, reward])] == ["to do", "to do"]
    rounds.train(document, [feedback, reward])
    assert trained == [True]
    assert [status.what for status in rounds.statuses([feedback, reward])] == ["done", "started"]
    document, changed = staged("judge: letters", "judge: {type: letters, mood: foul}")
    told = rounds.statuses(changed)
    assert [(status.what, status.why) for status in told] == [
        ("changed", "judge.mood (fair -> foul)"),
        ("changed", "after 1-feedback"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("feedback.segments", "feedback.model", "collects feedback, so it makes no model"),
        ("judge: letters", "objective: sft, model: {type: scorer}", "has no `judge`, so it makes no segments"),
        ("judge: letters", "judge: letters, trainer: {steps: 2}", "trainer: unknown key"),
    ],
)
def test_what_a_stage_that_collects_cannot_do(staged, old, new, message):
    with pytest.raises(UserError, match=message):
        staged(old, new)
