"""A vision-language model as a judge: its verdict is how likely it finds yes and no, nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmalign import UserError
from mmalign.records import Answer, Fact, Prompt
from mmalign_lvlm.judges.vlm import VisionLanguageJudge

FACT = Fact("attribute", "a red circle")
TEMPLATE = "is this {fact}"


def build(llava: Path, **options: object) -> VisionLanguageJudge:
    return VisionLanguageJudge(str(llava), **{"template": TEMPLATE, **options})


@pytest.fixture(scope="module")
def wide(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for long questions: places are computed, so no weight changes."""
    folder = tmp_path_factory.mktemp("wide") / "llava"
    shutil.copytree(llava, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def next_token(judge: VisionLanguageJudge, prompt: Prompt) -> torch.Tensor:
    """The probabilities of the first token of an answer, by a plain call of the model."""
    model = judge.policy.model
    with torch.no_grad():
        logits = model.base(**model._placed(model.dialogue.asked([prompt]))).logits
    return logits[0, -1].double().softmax(dim=0)


def test_the_verdict_is_the_share_of_yes(llava: Path, picture_files: list[Path]) -> None:
    judge = build(llava, batch_size=3)
    facts = [FACT, Fact("existence", "a blue square"), Fact("existence", "two circle"), Fact("relation", "there")]
    asked = [(Prompt("what", images=[picture]), fact) for picture in picture_files for fact in facts]
    verdicts = judge.verify(asked)
    words = judge.policy.model.dialogue.tokenizer.get_vocab()
    for (prompt, fact), verdict in zip(asked, verdicts, strict=True):
        found = next_token(judge, Prompt(f"is this {fact.text}", images=prompt.images))
        yes, no = found[words["yes"]], found[words["no"]]
        assert verdict.p_yes == pytest.approx(float(yes / (yes + no)), abs=1e-5)
        assert verdict.said == ("yes" if yes > no else "no")
    assert len({round(verdict.p_yes or 0, 6) for verdict in verdicts}) == len(asked)
    alone = [judge.verify([one])[0].p_yes for one in asked]
    assert alone == pytest.approx([verdict.p_yes for verdict in verdicts], abs=1e-5)


def test_it_answers_in_words_as_it_is_likeliest_to(llava: Path, picture_files: list[Path]) -> None:
    judge = build(llava, batch_size=2, max_new_tokens=3)
    asked = [Prompt("what is this", images=[picture]) for picture in picture_files] + [Prompt("is there")]
    said = judge.ask(asked)
    assert said == [judge.policy.likeliest([one]).responses[0].strip() or None for one in asked]
    assert any(said)


def test_answers_of_several_tokens_count_whole(
    llava: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """p(a red) = p(a) p(red | a)."""
    monkeypatch.setattr("mmalign_lvlm.judges.vlm.YES", ("a red",))
    monkeypatch.setattr("mmalign_lvlm.judges.vlm.NO", ("no",))
    judge, prompt = build(llava), Prompt("is this a red circle", images=picture_files[:1])
    model, words = judge.policy.model, judge.policy.model.dialogue.tokenizer.get_vocab()
    encoded = model.encode([prompt], [[words["a"], words["red"]]])
    with torch.no_grad():
        logits = model.head(model.hidden(encoded.inputs))[0, :-1].double().log_softmax(dim=-1)
    likely = logits.gather(1, encoded.ids[0, 1:, None])[:, 0][encoded.mask[0, 1:].bool()].sum().exp()
    no = next_token(judge, prompt)[words["no"]]
    assert judge.verify([(prompt, FACT)])[0].p_yes == pytest.approx(float(likely / (likely + no)), abs=1e-5)


def test_numbers_that_are_none_are_no_verdict(llava: Path, picture_files: list[Path]) -> None:
    judge = build(llava)
    judge.policy.model.base.get_output_embeddings().weight.data.fill_(torch.nan)
    (verdict,) = judge.verify([(Prompt("what", images=picture_files[:1]), FACT)])
    assert (verdict.said, verdict.p_yes) == ("none", None)


def test_a_tokenizer_that_cannot_tell_yes_from_no(
    llava: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmalign_lvlm.judges.vlm.NO", ("No", "Nope"))  # unknown words, as "Yes" is
    with pytest.raises(UserError, match="no difference between yes and no"):
        build(llava).verify([(Prompt("what", images=picture_files[:1]), FACT)])


def test_facts_that_cannot_be_read_are_asked_for_again_and_then_unknown(wide: Path) -> None:
    judge = build(wide, retries=2, max_new_tokens=4, batch_size=2)
    text = "a red circle. two blue square. no"
    said = judge._said
    asked: list[int] = []
    good = '{"objects": ["circle"], "attributes": [], "relations": []}'

    def replies(prompts: list[Prompt], attempt: int) -> list[str]:
        asked.append(len(prompts))
        assert all("red circle" in prompt.text and not prompt.images for prompt in prompts)
        texts = list(said(prompts, attempt))
        assert len(texts) == len(prompts)
        return [
            good if attempt and "Part: two" in prompt.text else text
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    judge._said = replies  # type: ignore[method-assign]
    found = judge.facts([Answer(Prompt("what"), text, [(0, 13), (14, 30), (31, 33)])])
    assert found == [[None, [Fact("existence", "There is a circle.")], None]]
    assert asked == [2, 1, 2, 1, 2]
    assert judge.facts([Answer(Prompt("what"), "", [])]) == [[]]


def test_a_question_that_leaves_no_room_names_the_option(llava: Path) -> None:
    with pytest.raises(UserError, match="max_length"):
        build(llava).facts([Answer(Prompt("what"), "a red circle", [(0, 12)])])
