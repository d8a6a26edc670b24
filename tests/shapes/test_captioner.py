"""The captioner's training: words and pictures as the processor gives them, what the tower learns, a folder that loads."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaProcessor

from mmalign.processes.tokens import Sampling, TokensPolicy
from mmalign_lvlm import pictures
from mmalign_lvlm.models import VisionLanguageModel
from mmalign_shapes.descriptions import describe
from mmalign_shapes.images import REQUEST, ShapesCaptions
from mmalign_shapes.pretrain import captioner, everything
from mmalign_shapes.pretrain.data import floats
from mmalign_shapes.pretrain.questions import EVEN, FORMS
from mmalign_shapes.rewards import CaptionOracle
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, Kind, Scene, Thing, kinds
from mmalign_shapes.statements import NUMBERS, TYPES

FEW = {
    **{"DESCRIBED": 6, "UNSEEN": 3, "TOWER_STEPS": 2, "WIDE_STEPS": 1, "TRUE_STEPS": 1, "FALSE_STEPS": 1},
    "LOOKING": ((2, 1e-3, EVEN), (1, 1e-3, EVEN)),
}
"""A training that takes a second."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return captioner.new_processor()


@pytest.fixture(scope="module")
def shown() -> captioner.Shown:
    """A few pictures."""
    return captioner.draw("train", 6, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that has hardly learnt anything, as the command writes it."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as small:
        for name, value in FEW.items():
            small.setattr(everything, name, value)
        everything.pretrain_captioner(out, seed=0)
    return out


def test_every_word_is_one_token_and_any_text_comes_back(processor: LlavaProcessor) -> None:
    tokenizer = processor.tokenizer
    words = {
        *COLORS,
        *SHAPES,
        *" ".join(RELATIONS).split(),
        *NUMBERS,
        "There",
        "shapes",
        "It",
        "the",
        "Describe",
        "Is",
        "Yes",
        "No",
    }
    assert all(len(tokenizer.tokenize(f" {word}")) == 1 for word in words)
    for text in (" There is a red circle. It is above the cross.", " a xylophone, é!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.get_vocab() == captioner.new_tokenizer().get_vocab()
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<image>"]


def test_the_tower_is_asked_what_is_on_each_patch_where_its_centre_is_and_how_it_lies_to_others() -> None:
    scene = Scene((Thing(Kind("green", "cross"), 20, 44, 9), Thing(Kind("red", "circle"), 50, 20, 9)), None, 230)
    told = captioner.what_is_where([scene])[0].unflatten(0, (8, 8))

    def kind(name: str) -> int:
        return 1 + [str(one) for one in kinds()].index(name)

    green, cross = 1 + list(COLORS).index("green"), 1 + list(SHAPES).index("cross")
    red, circle = 1 + list(COLORS).index("red"), 1 + list(SHAPES).index("circle")
    assert told[5, 2].tolist() == [green, cross, 3, 6, kind("red circle"), 0, 0, 0]
    assert told[2, 6].tolist() == [red, circle, 7, 3, 0, kind("green cross"), 0, 0]
    assert told[0, 0].tolist() == [0] * 8
    assert int((told[..., 0] > 0).sum()) == 3 * 3 + 2 * 3  # patches whose middle is inside
    assert (told.flatten(0, 1).amax(0) < torch.tensor(captioner.ANSWERS)).all()


def test_it_says_which_kinds_and_which_shapes_are_in_the_picture() -> None:
    scene = Scene((Thing(Kind("green", "cross"), 20, 44, 10), Thing(Kind("red", "circle"), 50, 20, 10)), None, 230)
    told = captioner.what_is_shown([scene])[0, 0].tolist()
    seen = [name for name, there in zip([*map(str, kinds()), *SHAPES], told, strict=True) if there]
    assert sorted(seen) == ["circle", "cross", "green cross", "red circle"]


def test_training_sees_what_the_processor_gives(processor: LlavaProcessor, shown: captioner.Shown) -> None:
    content = [{"type": "image"}, {"type": "text", "text": REQUEST}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = pictures.read(floats(shown.pictures[0]))
    batch = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=False)
    assert batch["input_ids"][0].tolist() == captioner.request(processor)
    assert torch.allclose(batch["pixel_values"], floats(shown.pictures[:1]) * 2 - 1, atol=1e-6)


def test_only_answers_and_their_ends_count_of_dialogues_as_the_template_writes_them(processor: LlavaProcessor) -> None:
    dialogues = [[(REQUEST, "There is a red circle.")], [("Is there a cross?", "Yes"), ("It is blue.", "No")]]
    ids, labels = captioner.rows(processor, dialogues)
    for row, counted, dialogue in zip(ids, labels, dialogues, strict=True):
        said = "".join(f" {answer}</s>" for _, answer in dialogue)
        assert processor.tokenizer.decode(counted[counted != -100]) == said
        assert torch.equal(row[counted != -100], counted[counted != -100])
        whole = processor.apply_chat_template([turn for i, asked in enumerate(dialogue) for turn in turns(i, *asked)])
        assert processor.tokenizer.decode(row[row != 0]).replace("<image>" * 64, "<image>") == whole


def turns(turn: int, question: str, answer: str) -> list[dict[str, Any]]:
    """A question and its answer, as messages; the first shows the picture."""
    asked = [*([] if turn else [{"type": "image"}]), {"type": "text", "text": question}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


@pytest.mark.parametrize("anywhere", [False, True])
def test_the_tower_learns_and_rests_while_the_language_model_does(
    anywhere: bool, processor: LlavaProcessor, shown: captioner.Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, step = [], captioner.update
    monkeypatch.setattr(captioner, "update", lambda loss, *rest: (losses.append(loss.item()), step(loss, *rest)))
    tower = captioner.train_tower(captioner.new_tower(), shown, 6, 0, 1.5e-3, anywhere)
    assert losses[-1] < losses[0] - 0.5
    losses.clear()
    model = captioner.new_captioner(tower, processor.tokenizer)
    captioner.train_captioner(model, processor, shown, 8, 0, learning_rate=3e-3, mix=EVEN)
    assert losses[-1] < losses[0] - 0.5
    after = model.model.vision_tower.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in tower.state_dict().items())
    patches = tower(floats(shown.pictures) * 2 - 1).last_hidden_state[:, 1:]
    features = model.model.get_image_features(floats(shown.pictures) * 2 - 1, return_dict=True).pooler_output
    assert torch.allclose(torch.stack(list(features)), model.model.multi_modal_projector(patches), atol=1e-5)


def test_the_vlm_model_loads_it_reads_the_same_rows_and_answers(trained: Path, processor: LlavaProcessor) -> None:
    model = VisionLanguageModel(str(trained / "captioner"))
    assert 1e6 < sum(weight.numel() for name, weight in model.base.named_parameters() if "lora" not in name) < 1.6e6
    data = ShapesCaptions("held-out", size=2)
    told = [data[i] for i in range(2)]
    prompts, texts = [row["prompt"] for row in told], [row["sample"] for row in told]
    encoded = model.encode(prompts, model.tokenize(prompts, texts))
    ids, labels = captioner.rows(processor, [[(REQUEST, text)] for text in texts])
    assert torch.equal(encoded.ids, ids)
    assert torch.equal(encoded.mask.bool(), labels != -100)
    samples = TokensPolicy(model, Sampling(max_new_tokens=4)).sample(prompts, [0, 1])
    assert CaptionOracle()(samples).values.shape == (2,)


def test_figures_stand_beside_the_weights(trained: Path) -> None:
    figures = json.loads((trained / "captioner" / "training.json").read_text())
    for found in (figures["sampled"], figures["likeliest"], figures["before_false_descriptions"]["sampled"]):
        assert set(found) == {"hallucination", *TYPES, "recall", "statements", "length"}
        assert all(0 <= found[name] <= 1 for name in ("hallucination", *TYPES, "recall"))
    assert all(0 <= share <= 1 for share in figures["answers"].values())
    assert set(figures["answers"]) == {"sentences", *FORMS}
    assert (trained / "captioner" / "model.safetensors").stat().st_size < 4e6


def test_what_is_trained_already_is_not_trained_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(everything, name, value)
    for name in ("train_tower", "train_captioner"):
        monkeypatch.setattr(everything, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    everything.pretrain_captioner(trained, seed=0)


def test_a_long_description_fits(processor: LlavaProcessor) -> None:
    drawn = captioner.scenes("train", 40, seed=3)
    texts = [str(describe(scene, random.Random(0))) for scene in drawn if len(scene.things) == 4]
    assert texts
    longest = max(len(processor.tokenizer(f" {text}")["input_ids"]) for text in texts)
    assert longest + 1 <= 64  # tokens that the measuring and the config allow an answer
