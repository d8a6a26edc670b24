"""Rewards for pictures: their contract, and that they compute what their names promise."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_diffusion import pictures
from mmalign_diffusion.rewards.aesthetic import Aesthetic, new_head
from mmalign_diffusion.rewards.clip import ClipScore
from mmalign_diffusion.rewards.colourfulness import Colourfulness
from mmalign_diffusion.rewards.jpeg import JpegSize
from mmalign_diffusion.rewards.openclip import OpenClip

Reward = Callable[[Samples], Tensor]
TEXTS = ["a red circle", "a blue square", "a red circle", "nothing"]


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the aesthetic predictor under the names of the published file."""
    file = tmp_path_factory.mktemp("predictor") / "weights.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save({f"layers.{name}": weight for name, weight in new_head().state_dict().items()}, file)
    return file


@pytest.fixture(scope="session")
def rewards(clip_folder: Path, predictor: Path) -> dict[str, Any]:
    clip = str(clip_folder)
    return {
        "clip": ClipScore(path=clip),
        "aesthetic": Aesthetic(str(predictor), clip_path=clip),
        "colourfulness": Colourfulness(),
        "jpeg": JpegSize(),
    }


@pytest.fixture
def reward(request: pytest.FixtureRequest, rewards: dict[str, Any]) -> Any:
    return rewards[request.param]


every_reward = pytest.mark.parametrize("reward", ["clip", "aesthetic", "colourfulness", "jpeg"], indirect=True)
gradient_rewards = pytest.mark.parametrize("reward", ["clip", "aesthetic", "colourfulness"], indirect=True)
clip_rewards = pytest.mark.parametrize("reward", ["clip", "aesthetic"], indirect=True)


def batch(n: int = 4, side: int = 40) -> Samples:
    media = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Samples([Prompt(text) for text in TEXTS[:n]], media)


@gradient_rewards
def test_a_video_scores_as_its_frames_do_on_average(reward: Reward) -> None:
    first, second = batch(), batch()
    second = Samples(second.prompts, second.media.flip(-1, -2).square())
    video = Samples(first.prompts, torch.stack([first.media, second.media], dim=1).requires_grad_())
    found = reward(video)
    torch.testing.assert_close(found, (reward(first) + reward(second)) / 2, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), video.media)
    assert (gradient.flatten(2).norm(dim=2) > 0).all()


@every_reward
def test_scores_move_with_their_samples(reward: Reward) -> None:
    samples, order = batch(), [2, 0, 3, 1]
    mixed = Samples([samples.prompts[i] for i in order], samples.media[order])
    torch.testing.assert_close(reward(mixed), reward(samples)[order])
    assert reward(samples).unique().numel() > 1


@every_reward
def test_one_sample_and_none(reward: Reward) -> None:
    torch.testing.assert_close(reward(batch(1)), reward(batch())[:1])
    assert reward(batch(0)).shape == (0,)


@every_reward
def test_a_sample_that_is_no_number_scores_none_and_spoils_no_other(reward: Reward) -> None:
    samples = batch()
    spoilt = Samples(samples.prompts, samples.media.clone())
    spoilt.media[1, 0, 3, 3] = torch.nan
    scores = reward(spoilt)
    assert scores.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(scores[[0, 2, 3]], reward(samples)[[0, 2, 3]])


@gradient_rewards
def test_gradient_reaches_pixels(reward: Any) -> None:
    media = batch().media.requires_grad_()
    reward(Samples(batch().prompts, media)).sum().backward()
    assert media.grad is not None
    assert media.grad.isfinite().all()
    assert (media.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


@clip_rewards
def test_no_weight_trains(reward: Any) -> None:
    assert not any(weight.requires_grad for weight in reward.clip.model.parameters())


def test_clip_score_is_the_cosine(clip_folder: Path) -> None:
    score = ClipScore(path=str(clip_folder))
    samples = batch(2, side=32)
    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    normalised = (samples.media - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        pictures, texts = model.encode_image(normalised), model.encode_text(tokenizer(samples.texts))
    torch.testing.assert_close(score(samples), torch.cosine_similarity(pictures, texts))


def test_preprocessing_is_near_that_of_open_clip_on_files(clip_folder: Path) -> None:
    """Theirs goes through 8 bits, ours through floats."""
    clip = OpenClip("", "", str(clip_folder))
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 5, generator=generator), (60, 50), mode="bilinear")
    image = pictures.to_image(smooth[0])
    transform = image_transform_v2(PreprocessCfg(**clip.model.visual.preprocess_cfg), is_train=False)
    ours = (pictures.fit(pictures.read(_png(image))[None], 32, "bicubic")[0] - clip.mean) / clip.std
    assert (ours - transform(image)).abs().max() < 0.05


def test_each_text_is_embedded_once(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = ClipScore(path=str(clip_folder))
    seen: list[int] = []
    embed = score.clip.model.encode_text
    monkeypatch.setattr(score.clip.model, "encode_text", lambda tokens: seen.append(len(tokens)) or embed(tokens))
    first = score(batch())
    assert torch.equal(score(batch()), first)
    assert seen == [3]


def test_the_aesthetic_predictor_is_one_affine_map(rewards: dict[str, Any]) -> None:
    head = rewards["aesthetic"].head.double()
    points = torch.randn(2, 768, dtype=torch.float64)
    mean = head(points.mean(dim=0))
    torch.testing.assert_close(mean, head(points).mean(dim=0))
    assert [tuple(layer.weight.shape) for layer in head if hasattr(layer, "weight")] == [
        (1024, 768),
        (128, 1024),
        (64, 128),
        (16, 64),
        (1, 16),
    ]
    head.float()


def test_the_aesthetic_predictor_reads_safetensors_too(predictor: Path, clip_folder: Path, tmp_path: Path) -> None:
    save_file(torch.load(predictor), tmp_path / "weights.safetensors")
    first = Aesthetic(str(predictor), clip_path=str(clip_folder))
    second = Aesthetic(str(tmp_path / "weights.safetensors"), clip_path=str(clip_folder))
    assert torch.equal(first(batch()), second(batch()))


def test_colourfulness_of_two_colours() -> None:
    """Half red, half blue: rg is 255 and 0, yb is 127.5 and -255, and each deviates by half of what lies between."""
    media = torch.zeros(1, 3, 4, 6)
    media[0, 0, :, :3] = media[0, 2, :, 3:] = 1
    rg, yb = (255.0, 0.0), (127.5, -255.0)
    deviation = math.hypot((rg[0] - rg[1]) / 2, (yb[0] - yb[1]) / 2)
    mean = math.hypot(sum(rg) / 2, sum(yb) / 2)
    found = Colourfulness()(Samples([Prompt("")], media)).item()
    assert found == pytest.approx(deviation + 0.3 * mean, rel=1e-5)


def test_colourfulness_does_not_know_brightness() -> None:
    media = batch().media / 2
    first, brighter, greyer = (
        Colourfulness()(Samples(batch().prompts, shown))
        for shown in (
            media,
            media + 0.5,
            media.mean(dim=1, keepdim=True) + (media - media.mean(dim=1, keepdim=True)) / 2,
        )
    )
    torch.testing.assert_close(brighter, first, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(greyer, first / 2, atol=1e-3, rtol=1e-4)
    grey = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    score = Colourfulness()(Samples([Prompt("")], grey)).sum()
    assert score.item() == pytest.approx(0, abs=2e-3)
    (gradient,) = torch.autograd.grad(score, grey)
    assert gradient.isfinite().all()


def test_jpeg_size_is_that_of_the_file_in_kilobytes() -> None:
    samples = batch(2)
    file = io.BytesIO()
    pictures.to_image(samples.media[0]).save(file, "JPEG", quality=95)
    assert JpegSize()(samples)[0].item() == pytest.approx(len(file.getvalue()) / 1000)
    plain = Samples(samples.prompts, torch.full_like(samples.media, 0.5))
    assert (JpegSize()(plain) < JpegSize()(samples) / 2).all()
    assert (JpegSize(quality=20)(samples) < JpegSize()(samples)).all()


def test_weights_that_want_the_quick_gelu_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip only warns when ViT-L-14 is asked for with OpenAI's weights, and then computes something else."""
    asked: dict[str, bool] = {}

    def create(name: str, pretrained: str, *, force_quick_gelu: bool, **_: Any) -> Any:
        asked[f"{name} {pretrained}"] = force_quick_gelu
        raise RuntimeError("enough")

    monkeypatch.setattr(open_clip, "create_model", create)
    for name, pretrained in [("ViT-L-14", "openai"), ("ViT-L-14", "laion2b_s32b_b82k")]:
        with pytest.raises(UserError):
            OpenClip(name, pretrained)
    assert asked == {"ViT-L-14 openai": True, "ViT-L-14 laion2b_s32b_b82k": False}


def test_mistakes_are_named(clip_folder: Path, predictor: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knows no 'ViT-L-41', did you mean 'ViT-L-"):
        ClipScore(model="ViT-L-41")
    with pytest.raises(UserError, match="ViT-L-14 has no weights 'opnai'; there are openai, laion400m_e31"):
        ClipScore(pretrained="opnai")
    with pytest.raises(UserError, match=r"CLIP ViT-B-32 \(openai\) cannot be loaded"):
        ClipScore(model="ViT-B-32")
    with pytest.raises(UserError, match="no folder with an open_clip model"):
        ClipScore(path=str(tmp_path))
    with pytest.raises(UserError, match="Download sac"):
        Aesthetic(str(tmp_path / "none.pth"), clip_path=str(clip_folder))
    (tmp_path / "other.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="not the weights of the aesthetic predictor"):
        Aesthetic(str(tmp_path / "other.pth"), clip_path=str(clip_folder))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
