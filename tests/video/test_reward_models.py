"""VideoReward: tokens for dimensions, prompts that quality cannot know, the published layout; on a tiny Qwen2-VL."""

import gc
import json
import os
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.processes.scoring import Heads, ScoringPolicy
from mmalign.records import Prompt, Samples
from mmalign.rewards import trained
from mmalign_video import tiny
from mmalign_video.models.judge import TEMPLATE, LanguageLora, VideoJudge
from mmalign_video.rewards import published, video_reward
from mmalign_video.rewards.video_reward import VideoReward
from mmalign_video.videos import at_rate

PROMPTS = [Prompt("a red circle"), Prompt("two blue squares and a star that moves left")]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_judge(tmp_path_factory.mktemp("qwen"))


def policy(qwen: Path, **options: object) -> ScoringPolicy:
    given = {"adapter": LanguageLora(4, 8), "frame_rate": None, "max_pixels": 16 * 16, **options}
    torch.manual_seed(3)
    return ScoringPolicy(VideoJudge(str(qwen), **given), ScoringPolicy.Sampling())


@torch.no_grad()
def perturbed(made: ScoringPolicy) -> ScoringPolicy:
    generator = torch.Generator().manual_seed(1)
    for weight in made.network.parameters():
        if weight.requires_grad:
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return made


def some(frames: int = 4) -> torch.Tensor:
    return torch.rand(2, frames, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def scores(made: ScoringPolicy, prompts: list[Prompt], media: torch.Tensor) -> torch.Tensor:
    with made.judging():
        return made.scores(made.encode(prompts, list(media)))


def test_each_dimension_is_read_at_its_token_and_quality_does_not_know_the_prompt(qwen: Path) -> None:
    made = perturbed(policy(qwen))
    encoded = made.encode(PROMPTS, list(some()))
    ids = made.model.backbone.processor.tokenizer.convert_tokens_to_ids(made.model.tokens)
    assert encoded.inputs["input_ids"].gather(1, encoded.places[:, 0]).tolist() == [ids, ids]
    found = scores(made, PROMPTS, some())
    swapped = scores(made, PROMPTS[::-1], some())
    assert_close(swapped[:, :2], found[:, :2], atol=1e-5, rtol=0)
    assert (swapped[:, 2] - found[:, 2]).abs().min() > 1e-3
    assert_close(scores(made, PROMPTS[:1], some()[:1]), found[:1], atol=1e-5, rtol=1e-5)


def test_pixels_and_frames_keep_to_their_budget(qwen: Path) -> None:
    def grid(media: torch.Tensor, **options: object) -> list[int]:
        return policy(qwen, **options).encode(PROMPTS[:1], [media]).inputs["video_grid_thw"][0].tolist()

    times, down, across = grid(some(5)[0])
    assert (times, down * across * 16 <= 16 * 16, down > across) == (3, True, True)
    assert grid(some(5)[0], max_frames=2)[0] == 1
    assert grid(some(5)[0], max_pixels=24 * 24)[1] > down


@pytest.mark.parametrize("adapter", [LanguageLora(4, 8), None])
def test_what_trains_has_gradient_and_comes_back(qwen: Path, tmp_path: Path, adapter: LanguageLora | None) -> None:
    made = perturbed(policy(qwen, adapter=adapter, vision=True))
    made.scores(made.encode(PROMPTS, list(some()))).sum().backward()
    without = [name for name, one in made.network.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []
    names = made.model.state_dict()
    assert any("visual" in name for name in names)
    assert any("lora_" in name for name in names) == (adapter is not None)
    assert not any("embed_tokens.embedding" in name or "lm_head" in name for name in names)
    made.save(tmp_path)
    fresh = policy(qwen, adapter=adapter, vision=True)
    fresh.load(tmp_path)
    assert_close(scores(fresh, PROMPTS, some()), scores(made, PROMPTS, some()))
    assert_close(fresh.headed.moments, made.headed.moments)
    if adapter:
        with pytest.raises(UserError, match="belong to another model or adapter"):
            policy(qwen, adapter=LanguageLora(2), vision=True).load(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"template": TEMPLATE.replace("<|MQ_reward|>", "")}, r"template: <\|MQ_reward\|> must stand in it once"),
        ({"heads": Heads(("VQ",), ("a", "b"))}, "a video has none"),
    ],
)
def test_what_cannot_be_read_is_told(qwen: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        policy(qwen, **options)


def test_a_prompt_cannot_hold_a_rating(qwen: Path) -> None:
    with pytest.raises(UserError, match="where a rating is read"):
        policy(qwen).encode([Prompt("a <|VQ_reward|>")], [some()[0]])


# ---- the published layout

TOLD = {
    "data_config": {"eval_dim": ["VQ", "MQ", "TA"], "fps": 2, "max_frame_pixels": 256},
    "model_config": {"use_special_tokens": True, "freeze_vision_tower": False, "output_dim": 1},
    "peft_lora_config": {"lora_enable": True, "lora_r": 4, "lora_alpha": 8},
    "inference_config": {
        **{"VQ_mean": 3.0, "MQ_mean": 1.0, "TA_mean": -2.0},
        **{"VQ_std": 2.0, "MQ_std": 2.0, "TA_std": 2.0},
    },
}


def published_as(made: ScoringPolicy, qwen: Path, folder: Path, whole: bool) -> Path:
    """A tiny model written as VideoAlign writes one: names of earlier transformers below peft's."""
    told = {**TOLD, "model_config": {**TOLD["model_config"], "model_name_or_path": str(qwen)}}
    (folder / "model_config.json").write_text(json.dumps(told))
    base = made.model.backbone.base
    weights = {name: one.detach() for name, one in base.state_dict().items() if "lm_head" not in name}
    place = next(name for name in weights if name.endswith("embed_tokens.own"))
    own, known = weights.pop(place), weights.pop(place.replace(".own", ".embedding.weight"))
    first = made.model.backbone.processor.tokenizer.convert_tokens_to_ids(made.model.tokens[0])
    weights[place.replace(".own", ".weight")] = torch.cat([known[:first], own])
    earlier = {}
    for name, one in weights.items():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        earlier[f"base_model.model.{name}"] = one.contiguous().clone()
    earlier["base_model.model.rm_head.weight"] = made.headed.linear.weight.detach()[:1].clone()
    for step in (9, 10):  # the later one counts, though it comes first by letters
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        kept = {name: one * (step == 10) for name, one in earlier.items()}
        if whole:
            torch.save(kept, checkpoint / "model.pth")
            continue
        lora = {name.replace(".default", ""): one for name, one in kept.items() if "lora_" in name}
        save_file(lora, checkpoint / "adapter_model.safetensors")
        rest = {name: one for name, one in kept.items() if "lora_" not in name and "base_layer" not in name}
        torch.save(rest, checkpoint / "non_lora_state_dict.pth")
    return folder


@pytest.mark.parametrize("whole", [True, False])
def test_the_published_layout_rates_as_the_model_that_was_written(qwen: Path, tmp_path: Path, whole: bool) -> None:
    made = perturbed(policy(qwen, vision=True))
    with torch.no_grad():
        made.headed.linear.bias.zero_()
        made.headed.linear.weight.copy_(made.headed.linear.weight[:1].expand(3, -1))
    reward = VideoReward(str(published_as(made, qwen, tmp_path, whole)), standardize=False)
    samples = Samples(PROMPTS, some(), frame_rate=2.0)
    expected = scores(made, PROMPTS, some())
    assert_close(reward(samples).values, expected.mean(dim=1))
    assert reward.policy.model.frame_rate == 2
    scaled = VideoReward(str(tmp_path), head="TA")
    assert_close(scaled(samples).values, (expected[:, 2] + 2) / 2)
    with pytest.raises(UserError, match="has no head 'TQ'"):
        VideoReward(str(tmp_path), head="TQ")


def test_rewards_of_one_model_share_it_while_it_is_held_and_until_it_is_written_anew(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published_as(perturbed(policy(qwen, vision=True)), qwen, tmp_path, True)
    load, loaded = published.load, []
    monkeypatch.setattr(published, "load", lambda *given: loaded.append(given) or load(*given))
    rewards = [VideoReward(str(folder), head=name) for name in ("VQ", "MQ", "TA")]
    assert len(loaded) == 1
    samples = Samples(PROMPTS, some(), frame_rate=2.0)
    every = rewards[0](samples).dimensions
    assert all(torch.equal(one(samples).values, every[one.head]) for one in rewards)
    assert VideoReward(str(folder), dtype="bfloat16").policy is not rewards[0].policy
    os.utime(folder / "checkpoint-10/model.pth", (0, 0))
    assert VideoReward(str(folder)).policy is not rewards[0].policy
    held = weakref.ref(rewards[0].policy)
    del rewards, every
    gc.collect()
    assert held() is None


def test_a_part_of_the_layout_is_told(qwen: Path, tmp_path: Path) -> None:
    told = {**TOLD, "model_config": {**TOLD["model_config"], "model_name_or_path": str(qwen)}}
    (tmp_path / "model_config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="holds no checkpoint-N"):
        published.load(tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(UserError, match=r"holds neither model\.pth nor"):
        published.load(tmp_path)
    with pytest.raises(UserError, match=r"template: no such file: words\.txt"):
        VideoReward(str(tmp_path), template="words.txt")
    (tmp_path / "model_config.json").write_text(json.dumps({"model_config": told["model_config"]}))
    with pytest.raises(UserError, match=r"lacks peft_lora_config\.lora_enable, data_config\.eval_dim: is it the file"):
        published.load(tmp_path)
    (tmp_path / "model_config.json").write_text("{")
    with pytest.raises(UserError, match=r"model_config\.json cannot be read .*: download it again"):
        published.load(tmp_path)


def test_a_trained_model_sees_samples_at_its_own_rate_whichever_reward_asks_it(qwen: Path, monkeypatch) -> None:
    made = perturbed(policy(qwen, frame_rate=2.0))
    for module in (trained, video_reward):
        monkeypatch.setattr(module, "load" if module is trained else "load_run", lambda path: made)
    videos = some(16)
    samples = Samples(PROMPTS, videos, frame_rate=8.0)
    expected = scores(made, PROMPTS, videos[:, ::4]).mean(dim=1)
    assert not torch.allclose(scores(made, PROMPTS, videos).mean(dim=1), expected, atol=1e-3)
    assert_close(VideoReward(str(qwen), standardize=False)(samples).values, expected)
    assert_close(trained.RewardModel(str(qwen))(samples).values, expected)


def test_a_sample_that_is_not_finite_has_no_rating(qwen: Path, monkeypatch) -> None:
    monkeypatch.setattr(trained, "load", lambda path: perturbed(policy(qwen)))
    videos = some()
    videos[0, 1, 0, 0, 0] = torch.nan
    found = trained.RewardModel(str(qwen))(Samples(PROMPTS, videos))
    assert found.values[0].isnan()
    assert found.dimensions["VQ"][0].isnan()
    assert found.values[1:].isfinite().all()


def test_frames_are_those_shown_at_the_rate() -> None:
    frames = torch.arange(16.0).reshape(16, 1, 1, 1).expand(-1, 3, 1, 1)
    assert at_rate(frames, 16.0, 2.0)[:, 0, 0, 0].tolist() == [0, 8]
    assert at_rate(frames, 8.0, 2.0)[:, 0, 0, 0].tolist() == [0, 4, 8, 12]
    assert at_rate(frames, 1.0, 2.0)[:4, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert at_rate(frames, None, 2.0) is frames
