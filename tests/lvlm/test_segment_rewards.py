"""Trained models of segments as rewards: what each segment earns and where, which answer is the best of several."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mmalign.document import dump
from mmalign.errors import UserError
from mmalign.processes.scoring import ScoringPolicy
from mmalign.processes.tokens import Sampling, TokensPolicy
from mmalign.records import Prompt, Samples
from mmalign_lvlm.rewards.critique import CritiquedReward
from mmalign_lvlm.rewards.segments import SegmentLikelihood, SegmentReward
from mmalign_lvlm.segments import split
from tests.lvlm.conftest import build, perturbed
from tests.lvlm.test_judge import CLASSES, judge, saved, trained

KINDS = ("existence", "attribute", "relation")
ANSWERS = ["there is a red circle. There is a blue square. A green circle", "no", "", "two blue square! What is this"]


@pytest.fixture(scope="module")
def prompts(picture_files: list[Path]) -> list[Prompt]:
    return [Prompt("what is this", images=[picture_files[i % 2]]) for i in range(len(ANSWERS))]


@pytest.fixture(scope="module")
def policy(llava: Path) -> ScoringPolicy:
    """Three heads that say different things of different segments."""
    made = trained(judge(llava, *KINDS, classes=CLASSES))
    with torch.no_grad():
        made.headed.linear.weight *= 4
    return made


@pytest.fixture(scope="module")
def folder(policy: ScoringPolicy, llava: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(policy, llava, tmp_path_factory.mktemp("judge"))


@torch.no_grad()
def said(policy: ScoringPolicy, prompts: list[Prompt], i: int) -> torch.Tensor:
    """Log-probabilities of one answer's segments `[S, K, C]`."""
    ends = [end for _, end in split(ANSWERS[i])]
    with policy.judging():
        return policy.logits(policy.encode(prompts[i : i + 1], ANSWERS[i : i + 1], [ends])).log_softmax(-1)


def test_each_segment_earns_the_values_of_its_classes(
    policy: ScoringPolicy, folder: str, prompts: list[Prompt]
) -> None:
    weights = {"relation": 0.5}
    scores = SegmentReward(folder, weights=weights)(Samples(prompts, ANSWERS))
    values = torch.tensor([0.0, 1.0, -1.0])
    for i, text in enumerate(ANSWERS):
        if not text:
            assert scores.values[i] == 0
            assert scores.spans[i] == []
            continue
        earned = values[said(policy, prompts, i).argmax(-1)]
        assert scores.spans[i] == [
            (end, pytest.approx(float(row @ torch.tensor([1, 1, 0.5]))))
            for (_, end), row in zip(split(text), earned, strict=True)
        ]
        assert_close(scores.dimensions["existence"][i], earned[:, 0].sum())
        assert scores.values[i].item() == pytest.approx(sum(earned for _, earned in scores.spans[i]))
    assert len({earned for row in scores.spans for _, earned in row}) > 2


def test_one_backbone_is_the_sum_of_its_types_and_a_type_without_weight_is_gone(
    folder: str, prompts: list[Prompt]
) -> None:
    samples = Samples(prompts, ANSWERS)
    alone = [SegmentReward(folder, weights={k: float(k == kind) for k in KINDS})(samples).values for kind in KINDS]
    assert_close(SegmentReward(folder)(samples).values, torch.stack(alone).sum(0))


def test_the_expected_value_weighs_every_class_by_its_probability(
    policy: ScoringPolicy, folder: str, prompts: list[Prompt]
) -> None:
    values = {"absent": 0.25, "faithful": 0.5, "hallucinated": -1.0}
    scores = SegmentReward(folder, values, expected=True)(Samples(prompts, ANSWERS))
    for i in (0, 1, 3):
        p = said(policy, prompts, i).exp()
        assert_close(scores.values[i], (0.25 * p[..., 0] + 0.5 * p[..., 1] - p[..., 2]).sum(), atol=1e-5, rtol=1e-4)
    assert scores.values[2] == 0
    likeliest = SegmentReward(folder, values)(Samples(prompts, ANSWERS))
    assert not torch.allclose(scores.values, likeliest.values, atol=1e-3)


def test_of_the_whole_answer_it_is_as_much_but_nowhere(folder: str, prompts: list[Prompt]) -> None:
    samples = Samples(prompts, ANSWERS)
    dense, whole = SegmentReward(folder)(samples), SegmentReward(folder, dense=False)(samples)
    assert_close(dense.values, whole.values)
    assert whole.spans is None
    assert SegmentReward(folder, values={"hallucinated": -2.0})(samples).values.max() <= 0
    assert SegmentReward(folder)(Samples([], [])).values.shape == (0,)
    assert SegmentReward(folder)(Samples(prompts[:2], ["", " "])).values.tolist() == [0, 0]


def test_the_likelihood_that_nothing_is_bad(policy: ScoringPolicy, folder: str, prompts: list[Prompt]) -> None:
    samples = Samples(prompts, ANSWERS)
    mean, total = (SegmentLikelihood(folder, ["hallucinated"], by)(samples) for by in ("mean", "sum"))
    assert torch.isnan(mean[2])
    assert torch.isnan(total[2])
    for i in (0, 1, 3):
        good = said(policy, prompts, i).exp()[..., :2].sum(-1).log().sum(-1)
        assert_close(mean[i], good.mean(), atol=1e-5, rtol=1e-4)
        assert_close(total[i], good.sum(), atol=1e-5, rtol=1e-4)
    assert (mean[[0, 1, 3]] <= 0).all()
    assert math.isfinite(mean[0])


def test_segments_that_the_model_does_not_see_earn_nothing(llava: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    text, asked = ANSWERS[0], prompts[:1]
    whole = SegmentReward(saved(trained(judge(llava, classes=CLASSES)), llava, tmp_path / "whole"))
    length = int(whole.model.policy.encode(asked, [text]).places[0, 0])
    short = judge(llava, classes=CLASSES, max_length=length - 2)
    folder = saved(trained(short), llava, tmp_path / "short", max_length=length - 2)
    (spans,), (cut,) = whole(Samples(asked, [text])).spans, SegmentReward(folder)(Samples(asked, [text])).spans
    assert 0 < len(cut) < len(spans)
    assert [end for end, _ in cut] == [end for end, _ in spans[: len(cut)]]


def test_options_that_the_model_does_not_know(folder: str, llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"values: .* has absent, faithful, hallucinated, not 'faithfull'"):
        SegmentReward(folder, values={"faithfull": 1.0})
    with pytest.raises(UserError, match=r"weights: .* has existence, attribute, relation, not 'object'"):
        SegmentReward(folder, weights={"object": 1.0})
    with pytest.raises(UserError, match="bad: all classes are bad"):
        SegmentLikelihood(folder, CLASSES)
    with pytest.raises(UserError, match="give whole answers a value: take the reward `reward-model`"):
        SegmentReward(saved(judge(llava, "quality"), llava, tmp_path))


def test_a_judge_that_is_told_what_is_true(llava: Path, prompts: list[Prompt]) -> None:
    informed = trained(judge(llava, template="there is a {caption} . {prompt}"))
    plain = trained(judge(llava))
    told = [Prompt("what is this", {"caption": "red circle"}, prompts[0].images)]
    asked = [Prompt("there is a red circle . what is this", images=prompts[0].images)]
    found, expected = (p.scores(p.encode(q, ["a circle"])) for p, q in ((informed, told), (plain, asked)))
    assert_close(found, expected)
    with pytest.raises(UserError, match="no column 'caption'"):
        informed.encode(prompts[:1], ["a circle"])


def test_a_critique_is_written_and_then_scored(llava: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    critic = TokensPolicy(perturbed(build(llava)), Sampling(max_new_tokens=5, temperature=1.0))
    critic.save(tmp_path / "critic")
    model = {"type": "vlm", "path": str(llava), "adapter": {"rank": 4}}
    dump({"plugins": [], "model": model, "sampling": {"max_new_tokens": 5}}, tmp_path / "critic" / "mmalign.yaml")
    scorer = trained(judge(llava, "quality"))
    path = saved(scorer, llava, tmp_path / "scorer")
    reward = CritiquedReward(str(tmp_path / "critic"), path, ask="{prompt} a {answer} is this")
    samples = Samples(prompts[:2], ["a red circle", "no"])
    asked = [
        Prompt(f"what is this a {text} is this", images=p.images)
        for p, text in zip(prompts, samples.made, strict=False)
    ]
    written = critic.likeliest(asked).responses
    assert reward.critiques(samples) == written
    texts = [f"{text}\nCritique: {critique}" for text, critique in zip(samples.made, written, strict=True)]
    assert_close(reward(samples).values, scorer.scores(scorer.encode(prompts[:2], texts)).detach()[:, 0])
    with pytest.raises(UserError, match="type 'vlm-reward', which offers scoring, but not likeliest"):
        CritiquedReward(path, path)
