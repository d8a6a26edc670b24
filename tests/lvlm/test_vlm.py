"""The adapter and its process, on a tiny LLaVA that is loaded as a real one is."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from mmalign.errors import UserError
from mmalign.objectives import dpo
from mmalign.parts import Parts
from mmalign.processes.tokens import TokensPolicy
from mmalign.records import Prompt, Samples, Turn
from mmalign_lvlm import pictures, plugin
from mmalign_lvlm.models import Lora, VisionLanguageModel

from .conftest import FEATURES, build, perturbed, save

RNG = torch.Generator()
ANSWERS = ["there is a red circle", "no", "two blue square and a green circle", "yes"]


@pytest.fixture(scope="module")
def model(llava: Path) -> VisionLanguageModel:
    """LoRA matrices that change what it says. Tests leave it as they found it."""
    return perturbed(build(llava))


@pytest.fixture
def prompts(picture_files: list[Path]) -> list[Prompt]:
    red, blue = picture_files
    return [
        Prompt("what is this", images=[red]),
        Prompt("is this a red circle and is there a blue square", images=[blue]),
        Prompt("what is this", images=[red, blue], history=[Turn("system", "a")]),
        Prompt("yes"),
    ]


def policy_of(model: VisionLanguageModel, **options: object) -> TokensPolicy:
    return TokensPolicy(model, TokensPolicy.Sampling(max_new_tokens=8), **options)


def likelihood(policy: TokensPolicy, prompts: list[Prompt], answers: list[str]) -> torch.Tensor:
    encoded = policy.encode(prompts, answers, RNG)
    return policy.log_likelihood(encoded, policy.draw(encoded, RNG)).sum()


# ---- log-probabilities


def test_they_are_those_of_the_whole_model_s_own_logits(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    encoded = policy.encode(prompts, ANSWERS, RNG)
    logits = model.base(**encoded.inputs).logits[:, :-1].log_softmax(-1)
    found = logits.gather(-1, encoded.ids[:, 1:, None])[..., 0] * encoded.mask[:, 1:]
    assert_close(likelihood(policy, prompts, ANSWERS), found.sum(1), atol=1e-5, rtol=1e-5)
    for row, mask, answer in zip(encoded.ids, encoded.mask, ANSWERS, strict=True):
        said = row[mask.bool()].tolist()
        assert model.processor.tokenizer.decode(said) == f"{answer} </s>"


def test_a_row_is_what_the_processor_makes_of_the_whole_conversation(
    model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    encoded = model.encode(prompts[:1], model.tokenize(prompts[:1], ANSWERS[:1]))
    text = "<s>USER : <image> what is this ASSISTANT : there is a red circle </s>"
    shown = pictures.read(prompts[0].images[0])
    whole = model.processor(text=text, images=[shown], add_special_tokens=False, return_tensors="pt")
    assert encoded.ids.equal(whole["input_ids"])
    assert int((encoded.ids == model.base.config.image_token_id).sum()) == FEATURES


def test_the_make_up_of_a_batch_changes_nothing(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    together = likelihood(policy, prompts, ANSWERS)
    samples = policy.sample(prompts, [5, 6, 7, 8])
    for i in range(4):
        assert_close(
            likelihood(policy, prompts[i : i + 1], ANSWERS[i : i + 1]), together[i : i + 1], atol=1e-4, rtol=1e-5
        )
        assert policy.sample(prompts[i : i + 1], [5 + i]).responses[0] == samples.responses[i]


def test_the_picture_matters(model: VisionLanguageModel, picture_files: list[Path]) -> None:
    red, blue = (likelihood(policy_of(model), [Prompt("what is this", images=[p])], ["no"]) for p in picture_files)
    assert not torch.allclose(red, blue, atol=1e-4)


def test_dpo_at_the_reference_is_log_two(llava: Path, prompts: list[Prompt]) -> None:
    policy = policy_of(build(llava))
    batch = {"prompt": prompts, "chosen": ANSWERS, "rejected": ANSWERS[::-1]}
    loss = dpo.loss(**dpo.terms(Parts(policy, None, []), batch, RNG))
    assert_close(loss.values, torch.full((4,), math.log(2)), atol=1e-6, rtol=0)
    loss.values.mean().backward()
    touched = {name for name, weight in policy.model.base.named_parameters() if weight.grad is not None}
    assert touched == set(policy.state_dict())
    assert all("language_model" in name and "lora" in name for name in touched)


@pytest.mark.parametrize("adapter", [Lora(rank=4), None], ids=["lora", "full"])
def test_the_divergence_is_that_of_both_models_own_logits(
    adapter: Lora | None, llava: Path, prompts: list[Prompt]
) -> None:
    made = build(llava, adapter=adapter)
    policy = policy_of(made, gradient_checkpointing=True)
    encoded = policy.encode(prompts, ANSWERS, RNG)
    draw = policy.draw(encoded, RNG)
    assert policy.compared(encoded, draw).divergence.values.abs().max() < 1e-5
    perturbed(made)
    with torch.no_grad():
        log_p = made.base(**encoded.inputs).logits.log_softmax(-1)
        with policy.reference():
            log_r = made.base(**encoded.inputs).logits.log_softmax(-1)
    whole = (log_r.exp() * (log_r - log_p)).sum(-1)[:, :-1] * encoded.mask[:, 1:]
    found = policy.compared(encoded, draw).divergence.sum()
    assert_close(found, whole.sum(1), atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert all(weight.grad is not None for weight in made.weights.trainable().values())


def test_the_changed_tokens_of_a_pair_are_words_of_the_answers(
    model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    policy = policy_of(model)
    said = ["two blue square and a green circle", "two blue square is a green circle"]
    encoded = policy.encode([prompts[2]] * 2, said, RNG)
    assert policy.changed(encoded).tolist() == [[0, 0, 0, 1, 0, 0, 0, 0]] * 2


def test_checkpointing_changes_no_gradient(llava: Path, prompts: list[Prompt]) -> None:
    made = perturbed(build(llava))
    found = []
    for checkpointing in (False, True):
        made.base.zero_grad(set_to_none=True)
        policy = policy_of(made, gradient_checkpointing=checkpointing)
        likelihood(policy, prompts, ANSWERS).sum().backward()
        found.append([weight.grad for weight in made.weights.trainable().values()])
    assert made.base.get_decoder().layers[0].training
    assert not made.base.get_decoder().layers[0].self_attn.training
    for plain, again in zip(*found, strict=True):
        assert_close(plain, again, atol=1e-4, rtol=1e-4)


# ---- samples and rollouts


def test_replay_equals_rollout_and_the_logits_it_was_drawn_from(
    model: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    policy = policy_of(model)
    rollout = policy.rollout(prompts, [1, 2, 3, 4])
    replayed = policy.replay(rollout)
    assert_close(replayed.values, rollout.log_probs.values, atol=1e-5, rtol=0)
    assert replayed.values.requires_grad
    assert_close(policy.replay(rollout[1:3]).values, rollout.log_probs.values[1:3], atol=1e-5, rtol=0)
    assert rollout.log_probs.mask.sum(1).tolist() == [len(ids) for ids in rollout.units]


def test_placeholders_are_never_said_and_ends_are_kept(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = policy_of(model)
    units = [
        ids for seed in range(12) for ids in policy.rollout(prompts, [seed, seed + 50, seed + 100, seed + 150]).units
    ]
    assert not {0, model.base.config.image_token_id} & {one for ids in units for one in ids}
    assert any(ids[-1] == 2 for ids in units)
    assert all(2 not in ids[:-1] for ids in units)
    assert len({tuple(ids) for ids in units}) > 20


def test_greedy_is_transformers_own(model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    policy = TokensPolicy(model, TokensPolicy.Sampling(max_new_tokens=8, temperature=0))
    asked = model._placed(model.dialogue.asked(prompts[:2]))
    own = model.base.generate(
        **asked, max_new_tokens=8, do_sample=False, suppress_tokens=[0, model.base.config.image_token_id]
    )
    texts = model.processor.tokenizer.batch_decode(own[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert list(policy.sample(prompts[:2], [0, 0]).responses) == [text.strip() for text in texts]


def test_answers_are_written_and_read_back(prompts: list[Prompt], tmp_path: Path) -> None:
    paths = plugin.mmalign_write_samples(Samples(prompts, ANSWERS, [1, 2, 3, 4]), tmp_path)
    assert [plugin.mmalign_read_media(path) for path in paths] == ANSWERS
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 4
    assert plugin.mmalign_write_samples(Samples(prompts[:1], torch.zeros(1, 3, 4, 4)), tmp_path) is None


# ---- weights


def test_the_reference_is_the_base_bitwise(llava: Path, model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    base = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    inputs = model.encode(prompts, model.tokenize(prompts, ANSWERS)).inputs
    with torch.no_grad():
        ours, untouched = model.base(**inputs).logits, base(**inputs).logits
        with model.reference():
            assert model.base(**inputs).logits.equal(untouched)
        assert not ours.allclose(untouched)
        assert model.base(**inputs).logits.equal(ours)


def test_the_saved_lora_loads_with_peft(
    llava: Path, model: VisionLanguageModel, prompts: list[Prompt], tmp_path: Path
) -> None:
    model.save(tmp_path)
    inputs = model.encode(prompts, model.tokenize(prompts, ANSWERS)).inputs
    theirs = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(llava), tmp_path).eval()
    with torch.no_grad():
        assert_close(theirs(**inputs).logits, model.base(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_training_begins_with_what_another_run_s_lora_made(
    llava: Path, model: VisionLanguageModel, prompts: list[Prompt], tmp_path: Path
) -> None:
    """And with what a third made of that; each is the reference of the next."""
    model.save(tmp_path / "first")
    second = build(tmp_path / "first")
    expected = likelihood(policy_of(model), prompts, ANSWERS)
    assert_close(likelihood(policy_of(second), prompts, ANSWERS), expected, atol=1e-4, rtol=1e-5)
    perturbed(second)
    with second.reference():
        assert_close(likelihood(policy_of(second), prompts, ANSWERS), expected, atol=1e-4, rtol=1e-5)
    second.save(tmp_path / "second")
    third = build(tmp_path / "second", adapter=None)
    expected = likelihood(policy_of(second), prompts, ANSWERS)
    assert_close(likelihood(policy_of(third), prompts, ANSWERS), expected, atol=1e-4, rtol=1e-5)


def test_lora_says_what_is_wrong_with_it(model: VisionLanguageModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    weights, file = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    kept, settings = weights.read_bytes(), json.loads(file.read_text())
    few = dict(list(load_file(weights).items())[:2])
    for broken in (kept[:100], serialized(few)):
        weights.write_bytes(broken)
        with pytest.raises(UserError, match=f"{tmp_path} holds LoRA that does not fit"):
            build(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"but no adapter_model\.safetensors"):
        build(tmp_path)
    weights.write_bytes(kept)
    for told, why in {
        json.dumps(
            {**settings, "base_model_name_or_path": "./gone"}
        ): r"is LoRA for \./gone.* still be there: .*no such folder",
        json.dumps({**settings, "base_model_name_or_path": str(tmp_path)}): "names no model",
        json.dumps({**settings, "peft_type": "IA3"}): "names no model",
        json.dumps({**settings, "r": "x"}): "does not fit",
        "[]": "names no model",
        "{": "is no JSON",
    }.items():
        file.write_text(told)
        with pytest.raises(UserError, match=why):
            build(tmp_path)


def test_weights_come_back(llava: Path, model: VisionLanguageModel, prompts: list[Prompt]) -> None:
    other = build(llava)
    before = likelihood(policy_of(other), prompts, ANSWERS)
    other.load_state_dict(model.state_dict())
    after = likelihood(policy_of(other), prompts, ANSWERS)
    assert not torch.allclose(before, after)
    assert after.equal(likelihood(policy_of(model), prompts, ANSWERS))
    with pytest.raises(UserError, match="another model or adapter"):
        build(llava, adapter=Lora(rank=2)).load_state_dict(model.state_dict())


def test_full_weights_train_the_language_model_beside_a_frozen_copy(
    llava: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    policy = policy_of(build(llava, adapter=None))
    before = likelihood(policy, prompts, ANSWERS)
    before.sum().backward()
    trained = {name for name, weight in policy.model.base.named_parameters() if weight.grad is not None}
    assert trained == set(policy.state_dict())
    assert not any("vision" in name or "projector" in name for name in trained)
    perturbed(policy.model)
    with policy.reference(), torch.no_grad():
        assert_close(likelihood(policy, prompts, ANSWERS), before.detach())
    after = likelihood(policy, prompts, ANSWERS)
    assert not torch.allclose(after, before)
    policy.save(tmp_path)
    assert_close(likelihood(policy_of(build(tmp_path)), prompts, ANSWERS), after.detach())


# ---- what a user is told


def test_pictures_that_do_not_fit_their_placeholders(tmp_path: Path, prompts: list[Prompt]) -> None:
    save(tmp_path, patch_size=8)
    with pytest.raises(UserError, match=r"keeps 8 tokens for images that have 32 features: patch_size"):
        policy_of(build(tmp_path)).encode(prompts[:2], ANSWERS[:2], RNG)


def test_answers_are_cut_and_prompts_never(llava: Path, prompts: list[Prompt]) -> None:
    whole = build(llava).encode(prompts[:1], [[5, 6, 7, 8]])
    length = int(whole.mask.shape[1]) - 4
    cut = build(llava, max_length=length + 2).encode(prompts[:1], [[5, 6, 7, 8]])
    assert cut.ids.equal(whole.ids[:, : length + 2])
    with pytest.raises(
        UserError, match=rf"'what is this' takes {length} tokens, {FEATURES} of them for pictures.*model.max_length"
    ):
        build(llava, max_length=length).encode(prompts[:1], [[5]])
    with pytest.raises(UserError, match=r"max_new_tokens"):
        policy_of(build(llava, max_length=length + 7)).sample(prompts[:1], [0])


def test_placeholders_in_words(model: VisionLanguageModel) -> None:
    with pytest.raises(UserError, match=r"holds <image>.*`images`"):
        model.encode([Prompt("what is <image>")], [[5]])
    with pytest.raises(UserError, match=r"the answer 'a <image>' holds <image>"):
        model.tokenize([Prompt("what")], ["a <image>"])


def test_models_and_adapters_that_are_not_there(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\./none: no such folder"):
        VisionLanguageModel("./none")
    with pytest.raises(UserError, match="holds no config"):
        VisionLanguageModel(str(tmp_path))
    with pytest.raises(UserError, match=r"nobody/nothing cannot be loaded: .*offline"):
        VisionLanguageModel("nobody/nothing")
    with pytest.raises(UserError, match=r"adapter: .*nowhere"):
        build(llava, adapter=Lora(target_modules=("nowhere",)))
    with pytest.raises(UserError, match=r"no such picture: .*gone\.png"):
        build(llava).encode([Prompt("what", images=[tmp_path / "gone.png"])], [[5]])


def test_options_and_hooks_are_read_without_heavy_imports() -> None:
    script = (
        "import sys, mmalign_lvlm.plugin\n"
        "assert not {'torch', 'transformers', 'peft', 'PIL'} & set(sys.modules), 'plugin'\n"
        "import mmalign_lvlm.models\n"
        "assert not {'transformers', 'peft'} & set(sys.modules), 'options'\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
