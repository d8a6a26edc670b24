"""Every family of vision-language models, on tiny checkpoints that are loaded as real ones are."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText
from transformers.models.smolvlm import processing_smolvlm

from mmalign.data.texts import TextPairs, TextPrompts
from mmalign.errors import UserError
from mmalign.processes.tokens import TokensPolicy
from mmalign.records import Prompt, Turn
from mmalign_lvlm import tiny
from mmalign_lvlm.models import Lora, VisionLanguageModel

from .conftest import build, perturbed

RNG = torch.Generator()
ANSWERS = ["there is a red circle", "no", "two blue squares and é 🐻", "yes"]
SAMPLING = TokensPolicy.Sampling(max_new_tokens=6)


@pytest.fixture(scope="module", autouse=True)
def numbers_in_words() -> Iterator[None]:
    """SmolVLM2's processor writes how many frames there are with a package that nothing else needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processing_smolvlm, "num2words", processing_smolvlm.num2words or str)
        yield


@pytest.fixture(scope="module", params=tiny.TINY)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory, numbers_in_words: None) -> Path:
    return tiny.save(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    """LoRA matrices that change what it says."""
    return perturbed(build(folder))


def picture(seed: int, width: int, height: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def prompts(family: str) -> list[Prompt]:
    """One picture, two, a video, and words alone, where the family takes that."""
    red, blue = picture(1, 40, 24), picture(2, 17, 30)
    asked = [
        Prompt("what is this?", images=[red]),
        Prompt("Is this a red circle and is there a blue square?", images=[blue, red]),
        Prompt("what is in the picture", videos=[[picture(seed, 32, 32) for seed in (3, 4, 5, 6)]]),
    ]
    if family.startswith("paligemma"):
        return [*asked, Prompt("a", images=[blue])]
    return [*asked, Prompt("hello", history=[Turn("system", "a"), Turn("user", "is it"), Turn("assistant", "no")])]


def policy_of(model: VisionLanguageModel) -> TokensPolicy:
    return TokensPolicy(model, SAMPLING)


@torch.no_grad()
def likelihood(policy: TokensPolicy, prompts: list[Prompt], answers: list[str]) -> torch.Tensor:
    encoded = policy.encode(prompts, answers, RNG)
    return policy.log_likelihood(encoded, policy.draw(encoded, RNG)).sum()


@torch.no_grad()
def test_log_probs_are_those_of_the_model_s_own_forward(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    encoded = model.encode(prompts, model.tokenize(prompts, ANSWERS))
    logits = model.base(**encoded.inputs).logits[:, :-1].log_softmax(-1)
    own = logits.gather(-1, encoded.ids[:, 1:, None])[..., 0] * encoded.mask[:, 1:]
    assert_close(likelihood(policy_of(model), prompts, ANSWERS), own.sum(1), atol=1e-4, rtol=1e-5)
    for row, mask, answer in zip(encoded.ids, encoded.mask, ANSWERS, strict=True):
        assert model.decode([row[mask.bool()].tolist()]) == [answer]


@torch.no_grad()
def test_a_row_is_what_the_processor_makes_of_the_whole_conversation(
    family: str, model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    encoded = model.encode(prompts[:1], model.tokenize(prompts[:1], ANSWERS[:1]))
    shown = Image.fromarray((prompts[0].images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    if family.startswith("paligemma"):
        text, suffix = "<image>what is this?", {"suffix": ["there is a red circle"]}
    else:
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
        text = model.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        text, suffix = text + "there is a red circle<|im_end|>", {}
    whole = model.processor(text=[text], images=[[shown]], return_tensors="pt", **suffix)
    assert encoded.inputs.keys() == whole.keys() - {"labels"}
    for name, value in encoded.inputs.items():
        assert_close(value, whole[name])


def test_the_make_up_of_a_batch_changes_nothing(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    together, samples = likelihood(policy, prompts, ANSWERS), policy.sample(prompts, [5, 6, 7, 8])
    for i, prompt in enumerate(prompts):
        alone = likelihood(policy, [prompt], ANSWERS[i : i + 1])
        assert_close(alone, together[i : i + 1], atol=1e-3, rtol=1e-5)
        assert policy.sample([prompt], [5 + i]).responses[0] == samples.responses[i]


def test_what_is_shown_is_seen(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    moved = [picture(seed, 32, 32) for seed in (6, 5, 4, 3)]
    pairs = [(prompts[0], {"images": [picture(9, 40, 24)]}), (prompts[1], {"images": prompts[1].images[::-1]})]
    for prompt, other in [*pairs, (prompts[2], {"videos": [moved]})]:
        found = [likelihood(policy, [one], ANSWERS[:1]) for one in (prompt, Prompt(prompt.text, **other))]
        assert not found[0].equal(found[1])  # the same numbers in the same order if it was not seen


def test_replay_equals_rollout_and_greedy_is_the_model_s_own(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    rollout = policy.rollout(prompts, [1, 2, 3, 4])
    assert_close(policy.replay(rollout).values, rollout.log_probs.values, atol=1e-4, rtol=0)
    greedy = model.generate(prompts, lambda logits, step: logits.argmax(-1), 4)
    encoded = model.encode(prompts, greedy)
    with torch.no_grad():
        logits = model.base(**encoded.inputs).logits
    logits[..., model._unsayable()] = -torch.inf
    for said, mask, ids in zip(logits.argmax(-1), encoded.mask, greedy, strict=True):
        assert said[:-1][mask[1:].bool()].tolist() == list(ids)


def test_placeholders_are_never_said(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    never = {*model.dialogue.placeholders.values(), model.base.config.image_token_id}
    assert {getattr(model.processor, f"{kind}_token", "<image>") for kind in ("image", "video")} - {"<image>"} <= set(
        model.dialogue.placeholders
    )
    wanted = torch.tensor(sorted(never))

    def eager(logits: torch.Tensor, step: int) -> torch.Tensor:
        assert logits[:, wanted].eq(-torch.inf).all()
        return logits.argmax(-1)

    assert not never & {one for ids in model.generate(prompts, eager, 6) for one in ids}
    for token in model.dialogue.placeholders:
        with pytest.raises(UserError, match=r"holds .*: take it out"):
            model.encode([Prompt(f"what is {token}", images=prompts[0].images)], [[5]])
        with pytest.raises(UserError, match=r"the answer .* holds"):
            model.tokenize(prompts[:1], [f"a {token}"])


@torch.no_grad()
def test_the_reference_is_the_base(folder: Path, model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    base = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = model.encode(prompts, model.tokenize(prompts, ANSWERS)).inputs
    untouched = base(**inputs).logits
    with model.reference():
        assert model.base(**inputs).logits.equal(untouched)
    assert not model.base(**inputs).logits.allclose(untouched)


def test_the_adapter_is_in_the_language_model_and_where_it_is_asked_for(
    folder: Path, model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    inner = next(name for name, one in model.base.named_modules() if one is model.base.get_decoder())
    assert all(name.startswith(f"{inner}.") for name in model.weights.trainable())
    everywhere = ("q_proj", "v_proj", "qkv", "query", "fc1", "out_proj", "linear_1", "linear")
    wide = build(folder, adapter=Lora(rank=2, target_modules=everywhere, vision=True))
    policy = TokensPolicy(wide, SAMPLING, gradient_checkpointing=True)
    encoded = policy.encode(prompts[:1], ANSWERS[:1], RNG)
    policy.log_likelihood(encoded, policy.draw(encoded, RNG)).sum().sum().backward()
    touched = {name for name, one in wide.weights.trainable().items() if one.grad is not None and one.grad.abs().sum()}
    assert any(name.startswith(f"{inner}.") for name in touched)
    assert any(not name.startswith(f"{inner}.") for name in touched)


@pytest.fixture
def reads(model: VisionLanguageModel) -> Iterator[list[int]]:
    """How many rows the model has read each time it was asked."""
    seen: list[int] = []

    def note(_: object, given: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        seen.append(
            len(next(one for one in (named.get("input_ids"), named.get("inputs_embeds"), *given) if one is not None))
        )

    hook = model.base.model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


of_one = pytest.mark.parametrize("of", [(0, 1, 1, 2, 0, 3, 2, 1), (3, 3, 3)], ids=["pictures", "words"])
"""Which prompt each of several answers is to."""


@of_one
@torch.no_grad()
def test_answers_drawn_to_one_prompt_are_those_that_it_gets_alone(
    family: str, model: VisionLanguageModel, prompts: list[Prompt], reads: list[int], of: Sequence[int]
) -> None:
    """And the prompt is read once, but by PaliGemma, which reads it both ways."""
    policy = policy_of(model)
    together = policy.sample([prompts[i] for i in of], range(len(of))).responses
    assert reads[0] == len(of if family.startswith("paligemma") else set(of))
    assert together == [policy.sample([prompts[i]], [seed]).responses[0] for seed, i in enumerate(of)]


@pytest.mark.parametrize("setting", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_how_a_checkpoint_would_be_drawn_from_changes_nothing(
    setting: dict[str, object], folder: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model/generation_config.json"
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), **setting}))
    policy, asked = policy_of(perturbed(build(file.parent))), [prompts[0], prompts[1], prompts[0]]
    alone = [policy.sample([prompt], [seed]).responses[0] for seed, prompt in enumerate(asked)]
    assert policy.sample(asked, range(3)).responses == alone


@of_one
def test_answers_to_one_prompt_are_as_likely_and_teach_as_much_as_each_alone(
    family: str, model: VisionLanguageModel, prompts: list[Prompt], reads: list[int], of: Sequence[int]
) -> None:
    policy, answers, rows = policy_of(model), [ANSWERS[i % 3] for i in range(len(of))], range(len(of))
    weights = [weight for weight in model.base.parameters() if weight.requires_grad]

    def learnt(rows: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        encoded = policy.encode([prompts[of[row]] for row in rows], [answers[row] for row in rows], RNG)
        found = policy.log_likelihood(encoded, policy.draw(encoded, RNG)).sum()
        return found.detach(), list(torch.autograd.grad((found * torch.tensor(rows)).sum(), weights))

    together, gradients = learnt(rows)
    assert reads == ([len(of)] if family.startswith("paligemma") else [len(set(of)), len(of)])
    alone, taught = zip(*(learnt([row]) for row in rows), strict=True)
    assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-4)
    for i, gradient in enumerate(gradients):
        assert_close(gradient, torch.stack([one[i] for one in taught]).sum(0), rtol=1e-3, atol=1e-4)


def test_layers_that_are_computed_again_keep_nothing_that_could_be_shared(folder: Path, prompts: list[Prompt]) -> None:
    policy = TokensPolicy(build(folder), SAMPLING, gradient_checkpointing=True)
    encoded = policy.encode([prompts[0], prompts[0]], ANSWERS[:2], RNG)
    assert "rows" not in encoded.inputs


def test_too_long_a_prompt_loses_its_first_words_and_no_picture(
    folder: Path, model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    asked = Prompt("there is a red circle above two blue squares. what is this?", images=prompts[1].images)
    whole = model.dialogue.asked([asked])["input_ids"]
    length, placeholder = whole.shape[1], model.dialogue.placeholder
    cut = build(folder, max_prompt_length=length - 7).dialogue.asked([asked])["input_ids"]
    assert length - 9 <= cut.shape[1] <= length - 7
    assert (cut == placeholder).sum() == (whole == placeholder).sum()
    text = model.processor.tokenizer.decode(cut[0], skip_special_tokens=True)
    assert "there is a red" not in text
    assert "what is this?" in text
    with pytest.raises(UserError, match=rf"takes {length} tokens, \d+ of them for pictures.*max_prompt_length is 10"):
        build(folder, max_prompt_length=10).dialogue.asked([asked])


def test_larger_pictures_and_frames_are_made_smaller_with_their_shape_kept(folder: Path) -> None:
    bounded = build(folder, max_pixels=3200).dialogue
    large, small = (Prompt("what is this?", images=[picture(1, *size)]) for size in ((160, 80), (40, 24)))
    video = Prompt("what is this?", videos=[[picture(seed, 160, 80) for seed in (3, 4)]])
    (shrunk,) = bounded.unexpanded(large)[1]["images"][0]
    assert shrunk.size == (80, 40)
    (kept,) = bounded.unexpanded(small)[1]["images"][0]
    assert kept.size == (40, 24)
    shown = bounded.unexpanded(video)[1]
    frames = shown["images"][0] if "images" in shown else [Image.fromarray(frame) for frame in shown["videos"][0]]
    assert [frame.size for frame in frames] == [(80, 40)] * 2


def test_a_placeholder_that_the_model_spells_can_be_read_again(
    model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    tokenizer = model.processor.tokenizer
    for token in model.dialogue.placeholders:
        spelled = [one for letter in token for one in tokenizer(letter, add_special_tokens=False)["input_ids"]]
        assert tokenizer.decode(spelled) == token
        (said,) = model.decode([spelled])
        assert said == f"{token[0]} {token[1:]}"
        model.tokenize(prompts[:1], [said])


def test_frames_are_one_video_or_several_pictures(family: str, model: VisionLanguageModel) -> None:
    frames = [picture(seed, 32, 32) for seed in (3, 4, 5, 6)]
    moving, still = Prompt("what is this", videos=[frames]), Prompt("what is this", images=frames)
    shown = [model.dialogue.asked([one]) for one in (moving, still)]
    videos = "llava-onevision", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "internvl", "smolvlm"
    assert shown[0]["input_ids"].equal(shown[1]["input_ids"]) == (family not in videos)
    with pytest.raises(UserError, match=r"has no frames|only about pictures"):
        model.dialogue.asked([Prompt("what", videos=[[]])])
    with pytest.raises(UserError, match="frames of sizes"):
        model.dialogue.asked([Prompt("what", videos=[[frames[0], picture(1, 8, 8)]])])
    if family == "llava-onevision":
        with pytest.raises(UserError, match=r"have 4, 2: give as many frames"):
            model.dialogue.asked([moving, Prompt("what", videos=[frames[:2]])])


def test_odd_pictures(family: str, model: VisionLanguageModel) -> None:
    """One pixel is a picture; what a processor will not take is one sentence."""
    dot, stroke = Prompt("what is this", images=[picture(1, 1, 1)]), Prompt("what", images=[picture(1, 2000, 2)])
    seen = [dot] if "qwen" in family else [dot, stroke]
    rows = model.encode(seen, [[60]] * len(seen))
    assert model.hidden(rows.inputs).isfinite().all()
    if "qwen" in family:
        with pytest.raises(UserError, match="prompt 'what' with 1 pictures and 0 videos is nothing that"):
            model.encode([stroke], [[60]])


def test_videos_of_a_file_are_frames_beside_it(tmp_path: Path) -> None:
    row = {"prompt": "what is this", "chosen": "a circle", "rejected": "no", "videos": [["1.png", "2.png"], ["3.png"]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for read in (TextPairs, TextPrompts):
        prompt = read(str(tmp_path / "rows.jsonl"))[0]["prompt"]
        assert prompt.videos == ((tmp_path / "1.png", tmp_path / "2.png"), (tmp_path / "3.png",))
