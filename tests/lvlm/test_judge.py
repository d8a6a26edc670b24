"""The judge: heads on a tiny LLaVA; where answers and their segments are read; runs through the command line."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign.document import dump
from mmalign.errors import UserError
from mmalign.objectives import segment_classification
from mmalign.parts import Parts
from mmalign.processes.scoring import Heads, ScoringPolicy
from mmalign.records import Prompt, Samples, Segment
from mmalign.rewards.ensemble import Ensemble
from mmalign.rewards.trained import RewardModel
from mmalign_lvlm.models import Lora, VisionLanguageJudge
from mmalign_lvlm.models.dialogue import Dialogue

ANSWERS = ["there is a red circle", "no", "two blue square and a green circle", ""]
CLASSES = ("absent", "faithful", "hallucinated")


@pytest.fixture
def prompts(picture_files: list[Path]) -> list[Prompt]:
    red, blue = picture_files
    return [
        Prompt("what is this", images=[red]),
        Prompt("is this a red circle and is there a blue square", images=[blue]),
        Prompt("what is this", images=[red, blue]),
        Prompt("yes"),
    ]


def judge(llava: Path, *names: str, classes: tuple[str, ...] = (), **options: object) -> ScoringPolicy:
    heads = Heads(names or ("score",), classes)
    torch.manual_seed(3)
    made = VisionLanguageJudge(str(llava), heads=heads, **{"adapter": Lora(rank=4), **options})
    return ScoringPolicy(made, ScoringPolicy.Sampling())


@torch.no_grad()
def trained(policy: ScoringPolicy) -> ScoringPolicy:
    """The same, its trainable weights moved away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for weight in policy.network.parameters():
        if weight.requires_grad:
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return policy


# ---- where it is read


def test_an_answer_is_read_at_its_end_token(llava: Path, prompts: list[Prompt]) -> None:
    policy = judge(llava, "quality", "truth")
    encoded = policy.encode(prompts, ANSWERS)
    ids = encoded.inputs["input_ids"]
    assert ids.gather(1, encoded.places)[:, 0].tolist() == [2] * 4
    hidden = policy.model.model.base.model(**encoded.inputs).last_hidden_state
    read = torch.stack([row[place] for row, place in zip(hidden, encoded.places[:, 0], strict=True)])
    together = policy.scores(encoded)
    assert_close(together, policy.headed.linear(read))
    for i in range(4):
        alone = policy.scores(policy.encode(prompts[i : i + 1], ANSWERS[i : i + 1]))
        assert_close(alone, together[i : i + 1], atol=1e-4, rtol=1e-4)


def test_a_segment_is_read_where_it_ends(llava: Path, prompts: list[Prompt]) -> None:
    policy = judge(llava, "existence", "relation", classes=CLASSES)
    ends = [[len("there is"), len("there is a red circle")], [1], [], []]
    encoded = policy.encode(prompts, ANSWERS, ends)
    tokenizer = policy.model.model.processor.tokenizer
    rows = zip(encoded.inputs["input_ids"], encoded.places[:, 1:], strict=True)
    words = [[tokenizer.decode([row[place]]) for place in places if place >= 0] for row, places in rows]
    assert words == [["is", "circle"], ["no"], [], []]
    assert policy.logits(encoded).shape == (3, 2, 3)


def test_a_segment_is_read_before_its_punctuation(llava: Path, prompts: list[Prompt]) -> None:
    policy = judge(llava, classes=CLASSES)
    plain, stopped = "there is a red circle", "there is a red circle ."
    found = [policy.logits(policy.encode(prompts[:1], [text], [[len(text)]])) for text in (plain, stopped)]
    assert_close(*found, atol=1e-5, rtol=1e-5)


def test_what_comes_after_a_segment_does_not_change_it(llava: Path, prompts: list[Prompt]) -> None:
    policy = trained(judge(llava, classes=CLASSES))
    short, long = "there is a red circle", "there is a red circle and a blue square"
    found = [policy.logits(policy.encode(prompts[:1], [text], [[len(short)]])) for text in (short, long)]
    assert_close(*found, atol=1e-5, rtol=1e-5)


def test_segments_of_letters_that_are_several_tokens() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "<image>", "</s>"])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    processor = SimpleNamespace(tokenizer=tokenizer, apply_chat_template=chat)
    dialogue = Dialogue(processor, len(letters), [len(letters) + 1], None)
    text, prompt = " ein Bär 🐻, ok ", Prompt("was")
    ids = dialogue.tokenize(prompt, text)
    for end in range(2, len(text)):
        (place,) = dialogue.tokens_at(prompt, text, [end])
        # What was said up to that token is the segment and all before it, every byte of its last letter included.
        said = bytes(bytearray(byte_of(token) for token in tokenizer.convert_ids_to_tokens(ids[: place + 1])))
        assert said.decode() == text[:end].lstrip()
    slow = SimpleNamespace(is_fast=False, pad_token_id=0)
    with pytest.raises(UserError, match="does not tell where tokens stand"):
        Dialogue(SimpleNamespace(tokenizer=slow), 0, [1], None).tokens_at(prompt, text, [3])


def chat(messages: list[dict], tokenize: bool, add_generation_prompt: bool) -> str:
    """A template that takes the space around what is said."""
    told = [f"{one['role']}:{one['content'][-1]['text'].strip()}" for one in messages]
    return "\n".join([*told, "assistant:"] if add_generation_prompt else [*told[:-1], told[-1] + "</s>"])


def byte_of(token: str) -> int:
    """The byte that a letter of the byte-level alphabet stands for."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return ord(token) if ord(token) in plain else others[ord(token) - 256]


def test_a_segment_that_was_cut_off(llava: Path, prompts: list[Prompt]) -> None:
    length = int(judge(llava).encode(prompts[:1], ["no"]).places[0, 0])  # tokens of the prompt and one word
    cut = judge(llava, classes=CLASSES, max_length=length + 2)
    assert cut.encode(prompts[:1], ANSWERS[:1], [[8]]).places.tolist() == [[length + 1, length]]
    assert cut.encode(prompts[:1], ANSWERS[:1], [[8, 21]]).places.tolist() == [[length + 1, length, -1]]
    segments = [[Segment(0, 8, {"existence": "faithful"}), Segment(9, 21, {"existence": "hallucinated"})]]
    row = {"prompt": prompts[:1], "sample": ANSWERS[:1], "segments": segments}
    with pytest.raises(UserError, match=r"is cut before its labelled segment 2 of 2 ends: set model\.max_length"):
        segment_classification.terms(Parts(cut, None, [], None), row, torch.Generator())


# ---- weights


@pytest.mark.parametrize("adapter", [Lora(rank=4), None])
def test_the_language_model_and_the_heads_train_and_come_back(
    llava: Path, prompts: list[Prompt], tmp_path: Path, adapter: Lora | None
) -> None:
    policy = trained(judge(llava, "a", "b", adapter=adapter))
    scores = policy.scores(policy.encode(prompts, ANSWERS))
    scores.sum().backward()
    moved = {name for name, weight in policy.network.named_parameters() if weight.grad is not None}
    assert moved == {name for name, weight in policy.network.named_parameters() if weight.requires_grad}
    assert {"linear.weight", "linear.bias"} < moved
    assert not any("vision" in name or "projector" in name for name in moved)
    policy.save(tmp_path)
    fresh = judge(llava, "a", "b", adapter=adapter)
    fresh.load(tmp_path)
    assert_close(fresh.scores(fresh.encode(prompts, ANSWERS)), scores)
    if adapter:
        with pytest.raises(UserError, match="belongs to another model or adapter"):
            judge(llava, "a", "b", adapter=Lora(rank=2)).load(tmp_path)


# ---- as a reward


def saved(policy: ScoringPolicy, llava: Path, folder: Path, **options: object) -> str:
    """What a run leaves in its `model` folder."""
    policy.save(folder)
    heads = {"names": list(policy.heads.names), "classes": list(policy.heads.classes)}
    model = {"type": "vlm-reward", "path": str(llava), "adapter": {"rank": 4}, "heads": heads, **options}
    dump({"plugins": [], "model": model, "sampling": {}}, folder / "mmalign.yaml")
    return str(folder)


def test_a_saved_judge_is_a_reward(llava: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    policy = trained(judge(llava, "quality", "truth"))
    reward = RewardModel(saved(policy, llava, tmp_path / "one"))
    samples = Samples(prompts, ANSWERS)
    expected = policy.scores(policy.encode(prompts, ANSWERS)).detach()
    assert_close(reward(samples).values, expected.mean(1))
    assert_close(reward(samples).dimensions["truth"], expected[:, 1])
    assert reward(Samples([], [])).values.shape == (0,)
    other = saved(judge(llava, "quality", "truth"), llava, tmp_path / "other")
    both = torch.stack([reward(samples).values, RewardModel(other)(samples).values])
    for by, expected in {"mean": both.mean(0), "min": both.amin(0)}.items():
        assert_close(Ensemble([str(tmp_path / "one"), other], by=by)(samples).values, expected)
    with pytest.raises(UserError, match="holds no mmalign.yaml".replace(".", r"\.")):
        RewardModel(str(tmp_path))
    with pytest.raises(UserError, match="its heads tell classes of segments"):
        RewardModel(saved(judge(llava, classes=CLASSES), llava, tmp_path / "classes"))


# ---- runs

CONFIG = """
name: judge
folder: {folder}/runs
model: {{type: vlm-reward, path: {llava}, adapter: {{rank: 4}}, heads: {heads}}}
data: {{type: {data}, path: {folder}/rows.jsonl}}
objective: {objective}
evaluation: {{data: {{type: {data}, path: {folder}/rows.jsonl}}, every: 10}}
trainer: {{steps: 20, batch_size: 4, learning_rate: 1.0e-2, checkpoint_every: 10}}
"""


def mmalign(*arguments: str | Path, fails: bool = False) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == (2 if fails else 0), done.output
    return done.stderr if fails else done.stdout


def write(folder: Path, llava: Path, rows: list[dict], **config: str) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "judge.yaml"
    file.write_text(CONFIG.format(folder=folder, llava=llava, **config))
    return file


def preferences(picture_files: list[Path]) -> list[dict]:
    """Truth is what fits the picture's colour, whichever side it is on; length may tie."""
    rows = []
    for picture, right, wrong in zip(picture_files, ("red", "blue"), ("blue", "red"), strict=True):
        for flip in (False, True):
            sides = [f"a {right} circle", f"a {wrong} circle"][:: -1 if flip else 1]
            told = {"truth": "second" if flip else "first", "length": "tie"}
            rows.append({"prompt": "what is this", "images": [str(picture)], "first": sides[0], "second": sides[1]})
            rows[-1] |= {"preferences": told}
    rows.append({"prompt": "yes", "first": "no and no", "second": "no", "preferences": {"length": "first"}})
    return rows


def test_a_run_on_preferences(llava: Path, picture_files: list[Path], tmp_path: Path) -> None:
    heads = "{names: [truth, length]}"
    config = write(
        tmp_path,
        llava,
        preferences(picture_files),
        heads=heads,
        data="text-preferences",
        objective="{type: btt, theta: 3}",
    )
    said = mmalign("train", config)
    run = tmp_path / "runs" / "judge"
    measured = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert [row["step"] for row in measured] == [0, 10, 20]
    assert measured[0]["accuracy/truth"] == 0.5
    assert measured[-1]["accuracy/truth"] == measured[-1]["accuracy_with_ties"] == 1
    assert measured[-1]["loss"] < measured[0]["loss"] - 0.3
    assert "held-out rows at step 20: loss" in said
    reward = RewardModel(str(run / "model"))
    samples = Samples([Prompt("what is this", images=[picture_files[0]])] * 2, ["a red circle", "a blue circle"])
    truth = reward(samples).dimensions["truth"]
    assert truth[0] > truth[1]

    found = json.loads(mmalign("evaluate", run, "--json"))["held_out"]
    assert found["loss"] == pytest.approx(measured[-1]["loss"], rel=1e-4)
    assert "accuracy/truth" in mmalign("evaluate", run)
    said = mmalign("sample", run, "--prompts", tmp_path / "rows.jsonl", "--out", tmp_path / "out", fails=True)
    assert "scores and makes no samples" in said


def test_a_run_on_segments(llava: Path, picture_files: list[Path], tmp_path: Path) -> None:
    rows = []
    for picture in picture_files:
        for shape, label in {"circle": "faithful", "square": "hallucinated"}.items():
            text = f"there is a green {shape} and two blue circle"
            end = text.index(" and")
            labels = [
                [0, end, {"existence": label}],
                [end + 1, len(text), {"relation": "absent", "existence": "faithful"}],
            ]
            rows.append({"prompt": "what is this", "images": [str(picture)], "completion": text, "segments": labels})
    heads = f"{{names: [existence, relation], classes: [{', '.join(CLASSES)}]}}"
    objective = "{type: segment-classification, class_weights: {hallucinated: 2}}"
    mmalign("train", write(tmp_path, llava, rows, heads=heads, data="text-segments", objective=objective))
    lines = (tmp_path / "runs" / "judge" / "held_out.jsonl").read_text().splitlines()
    before, after = json.loads(lines[0]), json.loads(lines[-1])
    assert before["balanced_accuracy/existence"] <= 0.5
    assert after["balanced_accuracy/existence"] == after["recall/relation/absent"] == 1
    assert after["recall/existence/absent"] is None
    assert math.isfinite(after["loss"])


def test_what_does_not_fit_is_refused_before_anything_loads(llava: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "what", "first": "a", "second": "no", "preference": "first"}]
    config = write(tmp_path, llava, rows, heads="{}", data="text-preferences", objective="bradley-terry")
    said = mmalign("plan", config, "evaluation.prompts=p.txt", fails=True)
    assert "model 'vlm-reward' scores and makes no samples: take evaluation.data" in said
    assert "'dpo' needs 'likelihood'; model 'vlm-reward' offers scoring" in mmalign(
        "plan", config, "objective=dpo", fails=True
    )
    said = mmalign("plan", config, "evaluation.data.type=text-ratings", fails=True)
    assert "'bradley-terry' needs rows with" in said
