"""The latent reward, which is trained through noise, and Flow-NRG, which it leads; on a tiny Wan."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign.document import dump
from mmalign.errors import UserError
from mmalign.objectives.scored import both
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.processes.scoring import ScoringPolicy
from mmalign.records import Prompt
from mmalign_video import tiny
from mmalign_video.guidance.flow_nrg import FlowNrg
from mmalign_video.models import latent as module
from mmalign_video.models.latent import LatentVideoReward

from .conftest import TEXTS, build

Folder = Callable[[str], Path]
PROMPTS = [Prompt(text) for text in TEXTS]
SIZE = {"height": tiny.SIDE, "width": tiny.SIDE, "frames": tiny.FRAMES}


def latent(path: Path, **options: object) -> ScoringPolicy:
    torch.manual_seed(2)
    made = ScoringPolicy(LatentVideoReward(str(path), **{**SIZE, **options}), ScoringPolicy.Sampling())
    with torch.no_grad():
        made.headed.linear.weight.mul_(20)
    return made


def media() -> list[torch.Tensor]:
    return list(torch.rand(2, tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE, generator=rng()))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def saved(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run leaves in its `model` folder."""
    where = tmp_path_factory.mktemp("latent")
    latent(folder("wan")).save(where)
    model = {"type": "latent-video-reward", "path": str(folder("wan")), **SIZE}
    dump({"plugins": [], "model": model, "sampling": {}}, where / "mmalign.yaml")
    return str(where)


# ---- the reward


def test_both_sides_of_a_pair_are_under_the_same_noise(folder: Folder) -> None:
    """So two equal videos are worth the same at any draw; and without noise they are read clean."""
    made, video = latent(folder("wan")), media()[0]
    batch = {"prompt": [PROMPTS[0]] * 2, "first": [video] * 2, "second": [video] * 2}
    first, second = both(Parts(made, None, []), batch, rng())
    assert_close(first, second, atol=1e-5, rtol=1e-5)
    assert (first[0] - first[1]).abs().max() > 1e-4  # each pair has a time and noise of its own
    encoded = made.encode(PROMPTS, media())
    told = made.noised(encoded, rng())
    assert encoded.inputs["t"].eq(0).all()
    t, x = told.inputs["t"].reshape(-1, 1, 1, 1, 1), encoded.inputs["x"]
    assert ((t > 0) & (t < 1)).all()
    noise = (told.inputs["x"] - (1 - t) * x) / t
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    clean = latent(folder("wan"), noised=False)
    assert clean.noised(encoded, rng()) is encoded


def test_a_video_is_encoded_once_while_it_is_remembered(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made, videos = latent(folder("wan")).model, media()
    encode, asked = made.family.encode, []
    monkeypatch.setattr(made.family, "encode", lambda pixels: asked.append(len(pixels)) or encode(pixels))
    prompts = [Prompt(text) for text in TEXTS]
    first = made.encode(prompts, videos, [(), ()]).inputs["x"]
    again = made.encode(prompts, [videos[1].clone(), videos[0]], [(), ()]).inputs["x"]
    assert asked == [1, 1]
    assert torch.equal(again, first.flip(0))
    made.encode(prompts, [videos[0] / 2, videos[0]], [(), ()])
    assert asked == [1, 1, 1]
    made.encode(prompts[:1], [videos[0].bfloat16()], [()])  # rounded, so another video
    assert len(asked) == 4
    monkeypatch.setattr(module, "_REMEMBERED", 0)  # then the oldest makes room
    made.encode(prompts, [videos[0] / 4, videos[1]], [(), ()])
    assert len(asked) == 5
    made.encode(prompts[:1], videos[:1], [()])
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("size", "told"),
    [({"height": 36}, "36 is not a multiple of 8"), ({"frames": 8}, "8 is not 1 more than a multiple of 4")],
)
def test_a_size_that_does_not_fit_the_model_is_named(size: dict[str, int], told: str, folder: Folder) -> None:
    with pytest.raises(UserError, match=told):
        latent(folder("wan"), **size)


def test_all_that_is_asked_trains_and_comes_back(folder: Folder, tmp_path: Path) -> None:
    made = latent(folder("wan"), blocks=1)
    assert len(made.model.pipe.transformer.blocks) == 1
    told = made.noised(made.encode(PROMPTS, media()), rng())
    made.scores(told).sum().backward()
    names = {name: one for name, one in made.network.named_parameters() if one.requires_grad}
    assert [name for name, one in names.items() if one.grad is None] == []
    with torch.no_grad():
        for one in names.values():
            one += 0.1 * torch.randn(one.shape, generator=rng())
    made.save(tmp_path)
    fresh = latent(folder("wan"), blocks=1)
    fresh.load(tmp_path)
    assert_close(fresh.scores(told), made.scores(told))
    earlier = made.model.noisy(told.inputs["x"], told.inputs["t"] * 0.5, made.model.condition(TEXTS))
    assert not torch.allclose(made.scores(told), made.scores(earlier))
    with pytest.raises(UserError, match="belong to another model"):
        latent(folder("wan"), blocks=2).load(tmp_path)
    with pytest.raises(UserError, match="has 2, not 3"):
        latent(folder("wan"), blocks=3)
    with pytest.raises(UserError, match="the latent reward reads"):
        made.model.noisy(told.inputs["x"][..., :4], told.inputs["t"], {})


def test_blind_heads_cannot_know_the_prompt(folder: Folder) -> None:
    """They read what others read of the empty prompt; others read what they do without blind ones."""
    blind, plain = latent(folder("wan"), blind=("VQ", "MQ")), latent(folder("wan"))
    videos = media()
    for made in (blind, plain):
        made.headed.linear.weight.data.mul_(100)  # random weights say little of a prompt

    def scored(made: ScoringPolicy, prompts: list[Prompt]) -> torch.Tensor:
        with made.judging():
            return made.scores(made.noised(made.encode(prompts, videos), rng()))

    found, swapped = scored(blind, PROMPTS), scored(blind, PROMPTS[::-1])
    assert_close(swapped[:, :2], found[:, :2], atol=1e-5, rtol=0)
    assert (swapped[:, 2] - found[:, 2]).abs().min() > 1e-4
    assert (scored(plain, PROMPTS[::-1]) - scored(plain, PROMPTS)).abs().min() > 1e-4
    assert_close(found[:, :2], scored(plain, [Prompt("")] * 2)[:, :2])
    assert_close(found[:, 2], scored(plain, PROMPTS)[:, 2])
    assert blind.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(UserError, match="blind: no head is called 'VG'; they are VQ, MQ, TA"):
        latent(folder("wan"), blind=("VG",))


def test_blind_heads_train_and_lead(folder: Folder) -> None:
    made = latent(folder("wan"), blind=("VQ", "MQ"))
    told = made.noised(made.encode(PROMPTS, media()), rng())
    made.scores(told)[:, :2].sum().backward()
    assert all(one.grad is not None for one in made.network.backbone.head.parameters())
    x = told.inputs["x"].clone().requires_grad_()
    slopes = [
        torch.autograd.grad(made.scores(made.model.noisy(x, told.inputs["t"], condition))[:, 1].sum(), x)[0]
        for condition in map(made.model.condition, (TEXTS, TEXTS[::-1]))
    ]
    assert slopes[0].abs().max() > 0
    assert_close(slopes[0], slopes[1], atol=1e-6, rtol=0)


# ---- guidance


def worth(reward: ScoringPolicy, videos: torch.Tensor) -> torch.Tensor:
    with reward.judging():
        return reward.scores(reward.encode(PROMPTS, list(videos)))


def test_weights_lead_as_far_as_they_go(folder: Folder, saved: str) -> None:
    policy = DenoisingPolicy(build(folder("wan")), Sampling(4, 2.0))
    plain = policy.sample(PROMPTS, [1, 2])
    moved = []
    for weights in ({"MQ": 0.0}, {"MQ": 1.0}, {"MQ": 3.0}):
        led = FlowNrg(saved, weights, scale=2.0)(policy, None, PROMPTS, [1, 2])
        moved.append((led.media - plain.media).abs().mean().item())
        assert not led.media.requires_grad
    assert moved[0] == 0 < moved[1] < moved[2]
    assert FlowNrg(saved, {"MQ": 1.0}, scale=0.0)(policy, None, PROMPTS, [1, 2]).media.equal(plain.media)
    lead = FlowNrg(saved, scale=2.0)
    alike = FlowNrg(saved, {"VQ": 1.0, "MQ": 1.0, "TA": 1.0}, scale=2.0)
    assert lead(policy, None, PROMPTS, [1, 2]).media.equal(alike(policy, None, PROMPTS, [1, 2]).media)
    assert not lead(policy, None, PROMPTS, [1, 2]).media.equal(plain.media)
    assert lead.warnings() == []
    assert all(weight.grad is None for weight in lead.reward.network.parameters())
    with pytest.raises(UserError, match="no dimension 'MO'; they are VQ, MQ, TA"):
        FlowNrg(saved, {"MO": 1.0})


def test_gradients_that_are_not_finite_lead_nowhere_and_are_counted(folder: Folder, saved: str) -> None:
    policy = DenoisingPolicy(build(folder("wan")), Sampling(4, 1.0))
    plain = policy.sample(PROMPTS, [1, 2])
    lead = FlowNrg(saved, {"TA": 1.0}, scale=2.0)
    with torch.no_grad():
        lead.reward.headed.linear.weight.fill_(torch.nan)
    assert_close(lead(policy, None, PROMPTS, [1, 2]).media, plain.media, atol=1e-5, rtol=0)
    assert lead.warnings() == ["6 of 6 gradients of the reward were not finite; these steps were not led"]
    assert lead.warnings() == []
    clipped = FlowNrg(saved, {"TA": 1.0}, scale=2.0, max_norm=1e-9)
    found = clipped(policy, None, PROMPTS, [1, 2]).media
    assert_close(found, plain.media, atol=1e-4, rtol=0)
    assert "were longer than max_norm" in clipped.warnings()[0]


# ---- runs

CONFIG = """
name: nrg
folder: {folder}/runs
model: {{type: diffusers-video, path: {wan}, height: 64, width: 64, frames: 9, adapter: {{rank: 2}}}}
data: {{type: shapes-videos, size: 2}}
objective: sft
trainer: {{steps: 0}}
evaluation:
  prompts: {{type: shapes-video-prompts, split: held-out, size: 2}}
  rewards: [video-oracle]
  guidance: {{type: flow-nrg, path: "${{stages.reward.model}}", scale: 100.0, weights: {{MQ: 1.0}}}}
stages:
  - name: reward
    model: {{type: latent-video-reward, path: {wan}, height: 64, width: 64, frames: 9}}
    data: {{type: shapes-video-pairs, size: 4}}
    objective: btt
    evaluation: {{prompts: null, rewards: [], guidance: null}}
    trainer: {{steps: 2, batch_size: 2, learning_rate: 1.0e-3}}
  - name: led
    sampling: {{steps: 3, guidance_scale: 1.0}}
"""


def test_a_reward_is_trained_and_leads_an_evaluation(folder: Folder, tmp_path: Path) -> None:
    config = tmp_path / "nrg.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, wan=folder("wan")))
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output
    run = tmp_path / "runs" / "nrg" / "1-led"
    found = json.loads((run / "evaluation.json").read_text())["rewards"]["video-oracle"]
    assert found["n"] == 2
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == ["guided.jsonl", "step-000000.jsonl"]
    before, after = (run / "samples" / name / "0000.mp4" for name in ("step-000000", "guided"))
    assert before.read_bytes() != after.read_bytes()

    (tmp_path / "prompts.txt").write_text("a red circle moves up\n")
    made = {}
    for weight in ("", "MQ=0", "MQ=0.5"):
        given = ["--guidance", "flow-nrg", "--weight", weight] if weight else []
        out = tmp_path / f"out-{weight}"
        given += ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]
        done = CliRunner().invoke(app, ["sample", str(run), *given])
        assert done.exit_code == 0, done.output
        made[weight] = (out / "0000.mp4").read_bytes()
    assert made["MQ=0"] == made[""] != made["MQ=0.5"]
    done = CliRunner().invoke(app, ["plan", str(config), "stages.1.evaluation.guidance.type=flow-nrj"])
    assert done.exit_code == 2
    assert "did you mean 'flow-nrg'" in done.output


LED = """
name: led
folder: {folder}/runs
model: {{type: diffusers-video, path: {wan}, height: 32, width: 32, frames: 9, adapter: {{rank: 2}}}}
data: {{type: prompts, path: {folder}/prompts.txt}}
objective: {{type: grpo}}
rewards: [video-oracle]
sampling: {{steps: 3, sde: flow-grpo}}
trainer: {{steps: 0}}
evaluation:
  prompts: {{type: prompts, path: {folder}/prompts.txt}}
  rewards: [video-oracle]
  guidance: {{type: flow-nrg, path: {reward}, max_norm: 1.0e-9}}
"""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.nan, "2 of 2 gradients of the reward were not finite; these steps were not led"),
        (1.0, "2 of 2 gradients of the reward were longer than max_norm and were clipped"),
    ],
)
def test_gradients_that_do_not_lead_are_reported_where_samples_are_made(
    value: float, told: str, folder: Folder, tmp_path: Path
) -> None:
    made = latent(folder("wan"))
    with torch.no_grad():
        made.headed.linear.weight.mul_(value)
    made.save(tmp_path / "reward")
    model = {"type": "latent-video-reward", "path": str(folder("wan")), **SIZE}
    dump({"plugins": [], "model": model, "sampling": {}}, tmp_path / "reward" / "mmalign.yaml")
    (tmp_path / "prompts.txt").write_text("a red circle moves up\n")
    config = tmp_path / "led.yaml"
    config.write_text(LED.format(folder=tmp_path, wan=folder("wan"), reward=tmp_path / "reward"))
    given = ["--guidance", "flow-nrg", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]
    for arguments in (["sample", str(config), *given], ["evaluate", str(config)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert told in done.stderr
