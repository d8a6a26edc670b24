"""Answers that vLLM draws: what it is asked, when it gets weights, and what is refused. Where it is installed, what it says."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mmalign import options
from mmalign.errors import UserError
from mmalign.processes.tokens import TokensPolicy
from mmalign.records import Prompt, Turn
from mmalign_lvlm.models import Lora, VisionLanguageJudge, VisionLanguageModel
from mmalign_lvlm.models.engine import Vllm

from .conftest import FEATURES, build, perturbed, save

END, IMAGE = 2, 4
SAID = [9, 10, END, 11]


class Recorded:
    """Takes what vLLM takes, keeps it, and always says the same."""

    made: ClassVar[list["Recorded"]]

    def __init__(self, model: str, **given: object):
        torch.manual_seed(0)  # as vLLM does
        self.model, self.given = model, given
        self.asked: list[SimpleNamespace] = []
        self.loaded: list[dict[str, torch.Tensor]] = []
        self.forgotten = 0
        self.made.append(self)

    def generate(self, prompts, params, *, use_tqdm):
        assert not torch.is_autocast_enabled("cpu")
        self.asked.append(SimpleNamespace(prompts=prompts, params=params))
        return [self.answer(prompt["prompt_token_ids"]) for prompt in prompts]

    def answer(self, ids):
        read = [one for token in ids for one in [token] * (FEATURES if token == IMAGE else 1)]
        return SimpleNamespace(prompt_token_ids=read, outputs=[SimpleNamespace(token_ids=SAID)])

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        self.loaded.append({name: weight.detach().clone() for name, weight in kwargs["weights_iterator"]})

    @property
    def llm_engine(self):
        def forget():
            self.forgotten += 1

        return SimpleNamespace(reset_prefix_cache=forget, reset_mm_cache=forget, reset_encoder_cache=forget)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    """In the place of the package."""

    class LLM(Recorded):
        made: ClassVar[list[Recorded]] = []

    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.__dict__.update(LLM=LLM, SamplingParams=lambda **given: given)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return LLM


@pytest.fixture
def prompts(picture_files: list[Path]) -> list[Prompt]:
    red, blue = picture_files
    return [
        Prompt("what is this", images=[red]),
        Prompt("what is this", images=[red, blue], history=[Turn("system", "a")]),
        Prompt("yes"),
    ]


def policy_of(path: Path, **given: object) -> TokensPolicy:
    sampling = TokensPolicy.Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9, top_k=5)
    return TokensPolicy(build(path, vllm=Vllm(), **given), sampling)


def stepped(policy: TokensPolicy, **given: bool) -> None:
    """One update of the trainable weights."""
    weights = [weight for weight in policy.network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.AdamW(weights, lr=0.1, **given).step()


# ---- what it is asked


def test_it_is_told_pictures_seeds_and_all_of_sampling(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava, max_length=90)
    samples = policy.sample(prompts, [5, 6, 2**40])
    (made,) = vllm.made
    (asked,) = made.asked
    assert [one["prompt_token_ids"].count(IMAGE) for one in asked.prompts] == [1, 2, 0]
    assert [one.size for one in asked.prompts[1]["multi_modal_data"]["image"]] == [(40, 24), (17, 30)]
    assert "multi_modal_data" not in asked.prompts[2]
    assert [one.pop("seed") for one in asked.params] == [5, 6, 2**40]
    pad = 0
    assert asked.params == 3 * [
        {
            "max_tokens": 8,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 5,
            "stop_token_ids": [END],
            "ignore_eos": True,
            "logit_bias": {pad: -torch.inf, IMAGE: -torch.inf},
            "detokenize": False,
        }
    ]
    assert made.model == str(llava)
    assert {name: made.given[name] for name in ("dtype", "max_model_len", "gpu_memory_utilization")} == {
        "dtype": "float32",
        "max_model_len": 90,
        "gpu_memory_utilization": 0.3,
    }
    assert samples.responses == policy.model.decode([SAID[:3]]) * 3
    policy.likeliest(prompts)
    assert {one["temperature"] for one in made.asked[1].params} == {0.0}


def test_a_prompt_that_is_cut_is_told_as_it_trains(llava: Path, picture_files: list[Path], vllm) -> None:
    policy = policy_of(llava, max_prompt_length=FEATURES + 7)
    prompt = Prompt("yes yes yes yes yes what is this", images=picture_files[:1])
    policy.sample([prompt, prompt], [1, 2])
    (told,) = policy.model.dialogue.told([prompt])
    ids = vllm.made[0].asked[0].prompts[0]["prompt_token_ids"]
    assert len(ids) + FEATURES - 1 == told.length <= FEATURES + 7


def test_log_probs_of_a_rollout_are_the_networks_own(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as the loop makes them
        policy.rollout(prompts, [1, 2, 3])
    rollout = policy.rollout(prompts, [1, 2, 3])
    assert rollout.units == [SAID[:3]] * 3
    with torch.no_grad():
        assert rollout.log_probs.values.equal(policy.replay(rollout).values)


def test_a_hand_on_every_token_needs_no_vllm(llava: Path, prompts: list[Prompt], vllm) -> None:
    with_it, without = policy_of(llava), TokensPolicy(build(llava), policy_of(llava).sampling)
    assert with_it.mixed(prompts, [1, 2, 3], 0.5).responses == without.mixed(prompts, [1, 2, 3], 0.5).responses
    assert not vllm.made


def test_it_leaves_random_numbers_as_they_were(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    policy.sample(prompts, [1, 2, 3])
    assert torch.get_rng_state().equal(state)


# ---- weights


@pytest.mark.parametrize("kind", [{"foreach": True}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize("adapter", [Lora(rank=4), None])
def test_weights_are_loaded_when_they_changed_and_only_then(
    llava: Path, prompts: list[Prompt], adapter: Lora | None, kind: dict[str, bool], vllm
) -> None:
    policy = policy_of(llava, adapter=adapter)
    with policy.reference():
        policy.sample(prompts, [1, 2, 3])
    (made,) = vllm.made
    assert not made.loaded
    for _ in range(2):
        stepped(policy, **kind)
        policy.sample(prompts, [1, 2, 3])
        policy.sample(prompts, [4, 5, 6])
    with policy.reference():
        policy.sample(prompts, [1, 2, 3])
    policy.sample(prompts, [1, 2, 3])
    assert made.forgotten == 3 * len(made.loaded) == 12
    first, second, untouched, again = made.loaded
    assert all(again[name].equal(weight) for name, weight in second.items())
    for one, other in ((untouched, first), (first, second)):
        assert one.keys() == other.keys()
        assert any(not weight.equal(other[name]) for name, weight in one.items())


def test_a_reference_is_loaded_as_it_was_read(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava)
    stepped(policy)
    policy.sample(prompts, [1, 2, 3])
    with policy.reference():
        policy.sample(prompts, [1, 2, 3])
    plain = dict(build(llava, adapter=None).base.named_parameters())
    merged, untouched = vllm.made[0].loaded
    assert merged.keys() == untouched.keys() <= plain.keys()
    assert all(weight.equal(plain[name]) for name, weight in untouched.items())


def test_a_model_with_the_loaded_weights_says_what_lora_says(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava)
    perturbed(policy.model)
    policy.sample(prompts, [1, 2, 3])
    merged = build(llava, adapter=None)
    weights = dict(merged.base.named_parameters())
    with torch.no_grad():
        for name, weight in vllm.made[0].loaded[0].items():
            weights[name].copy_(weight)
    units = [[9, 10, END]] * 3
    found = [model.hidden(model.encode(prompts, units).inputs) for model in (policy.model, merged)]
    assert_close(*found, atol=1e-4, rtol=1e-4)


def test_weights_that_are_put_back_are_loaded(llava: Path, prompts: list[Prompt], vllm) -> None:
    policy = policy_of(llava)
    policy.load_state_dict({name: torch.ones_like(weight) for name, weight in policy.state_dict().items()})
    policy.sample(prompts, [1, 2, 3])
    assert len(vllm.made[0].loaded) == 1


# ---- what is refused


def test_without_the_package_the_remedy_is_named(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmalign_lvlm.models.engine.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mmalign-lvlm\[vllm\]'"):
        policy_of(llava)


def test_matrices_in_the_tower_are_refused_before_anything_loads(vllm) -> None:
    with pytest.raises(UserError, match=r"leave adapter\.vision out"):
        VisionLanguageModel("nowhere", adapter=Lora(vision=True), vllm=Vllm())


def test_lora_in_place_of_a_model_is_refused(vllm, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="vLLM begins with a whole model"):
        VisionLanguageModel(str(tmp_path), vllm=Vllm())


def test_several_processes_are_refused(llava: Path, vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"vLLM draws for a run of one process"):
        policy_of(llava)


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_a_temperature_that_it_would_change_is_refused(
    llava: Path, prompts: list[Prompt], temperature: float, vllm
) -> None:
    policy = policy_of(llava)
    with (
        policy.sampled(TokensPolicy.Sampling(max_new_tokens=8, temperature=temperature)),
        pytest.raises(UserError, match=r"sampling\.temperature: vLLM takes 0, or 0\.01 to 2"),
    ):
        policy.sample(prompts, [1, 2, 3])


def test_a_prompt_that_it_reads_otherwise_is_refused(
    llava: Path, prompts: list[Prompt], vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Recorded.answer
    monkeypatch.setattr(Recorded, "answer", lambda self, ids: answer(self, ids[1:]))
    with pytest.raises(UserError, match=r"vLLM reads this model's pictures in another way"):
        policy_of(llava).sample(prompts, [1, 2, 3])


def test_what_it_cannot_load_is_told_in_a_line(
    llava: Path, prompts: list[Prompt], vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Recorded, *given: object, **named: object) -> None:
        raise ValueError("no memory\n  is left")

    monkeypatch.setattr(vllm, "__init__", failing)
    with pytest.raises(UserError, match=r"model\.vllm: vLLM cannot load .*: no memory is left"):
        policy_of(llava).sample(prompts, [1, 2, 3])


def test_options_are_those_of_vlm_alone() -> None:
    assert options.check_callable(VisionLanguageModel, {"path": "a", "vllm": {"memory": 0.5}}) == []
    ((key, _),) = options.check_callable(VisionLanguageModel, {"path": "a", "vllm": {"memory": 1.5}})
    assert key == "vllm.memory"
    ((key, _),) = options.check_callable(VisionLanguageJudge, {"path": "a", "vllm": {}})
    assert key == "vllm"


# ---- vLLM itself


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny LLaVA that vLLM knows: its tower's weights have the names of published checkpoints, its heads are 32 wide."""
    tower, file = "vision_tower.", tmp_path / "model.safetensors"
    save(tmp_path, heads=1)
    named = {name.replace(tower, f"{tower}vision_model.", 1): weight for name, weight in load_file(file).items()}
    save_file(named, file, {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("adapter", [Lora(rank=4), None])
def test_the_likeliest_answers_are_those_of_transformers(
    adapter: Lora | None, published: Path, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    sampling = TokensPolicy.Sampling(max_new_tokens=8)
    ours, theirs = (TokensPolicy(build(published, adapter=adapter, **how), sampling) for how in ({}, {"vllm": Vllm()}))
    before = ours.likeliest(prompts).responses
    assert theirs.likeliest(prompts).responses == before
    perturbed(ours.model)
    theirs.load_state_dict(ours.state_dict())
    after = ours.likeliest(prompts).responses
    assert after != before
    assert theirs.likeliest(prompts).responses == after
    with theirs.reference():
        assert theirs.likeliest(prompts).responses == before
    said = theirs.rollout(prompts * 8, list(range(24))).units
    assert theirs.rollout(prompts * 8, list(range(24))).units == said
    assert not {0, IMAGE} & {token for ids in said for token in ids}
