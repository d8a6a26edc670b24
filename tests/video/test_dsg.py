"""What a prompt says, fact by fact: what counts as true, what may stay; and VideoRepair with it, its recipe on tiny models."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign.document import dump, read
from mmalign.errors import UserError
from mmalign.processes.denoising import DenoisingPolicy
from mmalign.records import Answer, Fact, Prompt, Samples, Verdict
from mmalign_lvlm import tiny as tiny_vlms
from mmalign_video import tiny
from mmalign_video.rewards.detector import Detector
from mmalign_video.rewards.dsg import SceneGraph, about, planned, spread, truths

RECIPE = Path(__file__).parents[2] / "configs" / "video" / "video-repair-wan.yaml"
DOG = Fact("existence", "There is a dog.")
CHILD = Fact("existence", "There is an old child.")
BROWN = Fact("attribute", "The dog is brown.")
BESIDE = Fact("relation", "The dog is running beside the child.")
RAIN = Fact("attribute", "It rains.")
FACTS = [DOG, CHILD, BROWN, BESIDE, RAIN]
SIDE = 8


class Judged:
    """Lists the same facts of every prompt, none of "?"; says what it was told. seen: how many frames each question shows."""

    def __init__(self, said: Mapping[str, str]):
        self.said = said
        self.listed: list[str] = []
        self.seen: list[int] = []

    def facts(self, answers: Sequence[Answer]) -> list[list[list[Fact] | None]]:
        self.listed += [one.text[start:end] for one in answers for start, end in one.spans]
        return [[None if one.text == "?" else list(FACTS)] for one in answers]

    def verify(self, questions: Sequence[tuple[Prompt, Fact]]) -> list[Verdict]:
        self.seen += [len(prompt.images) for prompt, _ in questions]
        return [Verdict(self.said.get(fact.text, "yes")) for _, fact in questions]


class Boxes:
    """Where things are, in columns of all frames."""

    def __init__(self, columns: Mapping[str, slice]):
        self.columns = columns

    def covered(self, frames: Tensor, things: Sequence[str]) -> Tensor:
        inside = torch.zeros(frames.shape[-2:], dtype=torch.bool)
        for thing in things:
            inside[:, self.columns[thing]] = True
        return inside


def graph(said: Mapping[str, str], columns: Mapping[str, slice] | None = None) -> SceneGraph:
    made = SceneGraph.__new__(SceneGraph)
    made.judge = made.lister = Judged(said)
    made.detector = None if columns is None else Boxes(columns)
    made.frames, made._listed = 3, {}
    return made


def videos(n: int = 1, frames: int = 5) -> Tensor:
    return torch.rand(n, frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def asked(*texts: str) -> Samples:
    return Samples([Prompt(text) for text in texts], videos(len(texts)))


# ---- what is true


def test_the_score_is_the_share_of_facts_that_are_true() -> None:
    scores = graph({BROWN.text: "no", RAIN.text: "moot"})(asked("a brown dog", "another"))
    assert scores.values.tolist() == pytest.approx([3 / 5] * 2)
    assert scores.dimensions["true"].tolist() == [3, 3]
    assert scores.places is None


def test_nothing_is_true_of_a_thing_that_is_not_there() -> None:
    assert truths(FACTS, ["no", "yes", "yes", "yes", "yes"]) == [False, True, False, False, True]
    assert truths(FACTS, ["yes", "no", "yes", "yes", "yes"]) == [
        True,
        False,
        True,
        True,
        True,
    ]  # "an old child" is told


@pytest.mark.parametrize(
    ("text", "names", "others"),
    [
        ("The old dog is beside the small child.", ["dog", "old dog", "child"], ["old", "small", "log"]),
        ("The cat is orange.", ["cat"], ["orange"]),
        ("The hotdog is warm.", ["hotdog"], ["dog"]),
        ("There is a dog.", ["dog"], ["a"]),
    ],
)
def test_a_fact_is_about_its_subject_and_its_object(text: str, names: list[str], others: list[str]) -> None:
    fact = Fact("relation", text)
    assert all(about(fact, name) for name in names)
    assert not any(about(fact, name) for name in others)


def test_without_facts_or_verdicts_there_is_no_score_and_others_keep_theirs() -> None:
    made = graph({})
    assert made(asked("?", "a dog")).values.isnan().tolist() == [True, False]
    assert graph({RAIN.text: "none"})(asked("a dog")).values.isnan().all()
    samples = asked("a dog", "a dog")
    samples.media[0, 0, 0, 0, 0] = torch.nan
    assert made(samples).values.isnan().tolist() == [True, False]
    assert made(Samples([], videos(0))).values.shape == (0,)


def test_a_prompt_is_read_once_and_few_frames_are_looked_at() -> None:
    made = graph({})
    made(asked("a dog", "a dog"))
    made(asked("a dog", "a cat"))
    assert made.judge.listed == ["a dog", "a cat"]
    assert set(made.judge.seen) == {3}
    frames = torch.arange(81)
    assert spread(frames, 4).tolist() == [0, 27, 53, 80]
    assert spread(frames[:2], 4).tolist() == [0, 1]
    assert spread(frames, 1).tolist() == [0]
    made(Samples([Prompt("a dog")], videos()[:, 0]))  # a picture
    assert made.judge.seen[-1] == 1


# ---- what may stay


def test_right_things_stay_where_no_wrong_one_is() -> None:
    child = Fact("existence", "There is a child.")
    facts = [DOG, child, BROWN]
    assert planned(facts, [True, True, True]) == (["a dog", "a child"], [])
    assert planned(facts, [True, True, False]) == (["a child"], ["a dog"])
    assert planned(facts, [False, True, False]) == (["a child"], [])
    columns = {"a dog": slice(0, 3), "an old child": slice(2, 6)}
    kept = graph({BROWN.text: "no"}, columns)(asked("a brown dog")).places
    assert kept.shape == (1, SIDE, SIDE)
    assert kept[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert kept[0].eq(kept[0, :1]).all()
    assert graph({}, columns)(asked("a brown dog")).places[0, 0].tolist() == [1] * 6 + [0] * 2


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_detector(tmp_path_factory.mktemp("owl"))


def test_a_box_covers_every_pixel_that_it_touches(owl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Detector(str(owl), 0.5)
    boxes = [torch.tensor([[1.2, 2.0, 3.5, 4.0], [6.0, -3.0, 99.0, 1.1]]), torch.tensor([[0.0, 7.5, 0.4, 7.9]])]
    monkeypatch.setattr(made, "boxes", lambda frames, thing: boxes)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[2:4, 1:4] = expected[0:2, 6:] = expected[7, 0] = True
    assert torch.equal(made.covered(videos()[0, :2], ["a dog"]), expected)
    assert not made.covered(videos()[0], []).any()


def test_boxes_are_those_of_the_detector_in_pixels_of_the_frame(owl: Path) -> None:
    """OWLv2 pads frames to squares below and at the right, so both sides are of the longer one's length."""
    frames = torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    processor, model = AutoProcessor.from_pretrained(owl), AutoModelForZeroShotObjectDetection.from_pretrained(owl)
    levels = [(one.permute(1, 2, 0) * 255).round().byte().numpy() for one in frames]
    inputs = processor(images=levels, text=[["a dog"]] * 2, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
    x, y, width, height = (20 * found.pred_boxes).unbind(-1)
    sure = found.logits[..., 0].sigmoid() > 0.5
    made = Detector(str(owl), 0.5).boxes(frames, "a dog")
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
    for frame in range(2):
        torch.testing.assert_close(made[frame], corners[frame][sure[frame]], atol=1e-4, rtol=1e-4)
        assert 0 < len(made[frame]) < sure.shape[1]
    assert len(Detector(str(owl), 0.5).boxes(frames, "a name of far more letters than OWLv2 can read")) == 2


# ---- what is told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"judge": {"path": "x"}}, "judge: missing `type`: write it as the judge of a config"),
        ({"judge": {"type": "no-such-judge"}}, "unknown judge 'no-such-judge'"),
        ({"judge": {"type": "shapes-oracle", "x": 1}}, "judge 'shapes-oracle': x"),
        ({"judge": {"type": "shapes-oracle"}, "detector": "/no/such"}, "detector /no/such cannot be loaded"),
    ],
)
def test_a_part_that_cannot_be_built_is_told(options: Mapping[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        SceneGraph(**options)


def test_a_model_that_finds_nothing_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        Detector(str(tiny.save_judge(tmp_path)), 0.2)


# ---- the recipe


def test_videos_are_repaired_from_the_recipe(
    folder: Callable[[str], Path], owl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny Qwen2.5-VL judges, a tiny OWLv2 finds, a tiny Wan draws again; the oracle lists the facts, which takes words."""
    (tmp_path / "prompts.txt").write_text("a red circle above a blue square\na green triangle\n")
    plain = read(RECIPE)
    qwen = tiny_vlms.save("qwen2.5-vl", tmp_path / "qwen")
    plain["model"] |= {"path": str(folder("wan")), "height": 32, "width": 32, "frames": 9, "dtype": "float32"}
    small = {"judge": {**plain["rewards"][0]["judge"], "path": str(qwen), "dtype": "float32"}, "detector": str(owl)}
    dsg = {**plain["rewards"][0], **small, "facts": {"type": "shapes-oracle"}, "threshold": 0.5, "frames": 2}
    plain["rewards"], plain["sampling"] = [dsg], {"steps": 2, "guidance_scale": 2.0}
    plain["evaluation"] |= {"rewards": [dsg], "prompts": str(tmp_path / "prompts.txt")}
    plain["evaluation"]["guidance"] |= {"rewards": [dsg], "enough": 2.0, "candidates": 2}
    plain |= {"folder": str(tmp_path), "data": {"type": "prompts", "path": str(tmp_path / "prompts.txt")}}
    dump(plain, tmp_path / "repair.yaml")
    redrawn, kept = DenoisingPolicy.redrawn, []
    monkeypatch.setattr(DenoisingPolicy, "redrawn", lambda *given: kept.append(given[-1]) or redrawn(*given))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "repair.yaml")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "video-repair-wan/evaluation.json").read_text())["rewards"]["dsg"]
    assert (found["n"], found["role"]) == (2, "trained")
    assert found["after"]["mean"] >= found["before"]["mean"]
    assert len(kept) == 2  # a round for each; random weights say no to everything, so that nothing may stay
