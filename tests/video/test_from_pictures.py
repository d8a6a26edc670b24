"""Videos that begin with a picture: the prompt's, told to both branches of guidance."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.cogvideo import pipeline_cogvideox_image2video as cogvideo
from pipelines import latents, perturbed
from torch import Tensor

from mmalign.data.cache import Store
from mmalign.errors import UserError
from mmalign.processes.denoising import DenoisingPolicy
from mmalign.records import Prompt
from mmalign_diffusion import pictures
from mmalign_video import tiny
from mmalign_video.models import VideoModel

from .conftest import TEXTS, build

STEPS, SCALE = 4, 2.0
PICTURES = [
    torch.randint(256, (3, tiny.SIDE, tiny.SIDE), generator=torch.Generator().manual_seed(i)) / 255 for i in (0, 1)
]
PROMPTS = [Prompt(text, images=[picture]) for text, picture in zip(TEXTS, PICTURES, strict=True)]
families = pytest.mark.parametrize("family", list(tiny.FROM_PICTURES))
Folder = Callable[[str], Path]


def policy_of(model: VideoModel) -> DenoisingPolicy:
    return DenoisingPolicy(model, DenoisingPolicy.Sampling(steps=STEPS, guidance_scale=SCALE))


@families
@torch.no_grad()
def test_sampling_gives_what_the_pipeline_itself_gives(
    family: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cogvideo, "retrieve_latents", lambda encoded, *_: encoded.latent_dist.mode())
    model = perturbed(build(folder(family)))
    policy, start = policy_of(model), latents(model, 1)
    denoise, x = policy._denoise(PROMPTS[:1]), start
    for taken in policy._walk(denoise, x, torch.zeros(1, STEPS, dtype=torch.bool), lambda draws: start):
        x = taken.x_next
    found: Tensor = model.pipe(
        image=pictures.to_image(PICTURES[0]),
        prompt=TEXTS[0],
        height=tiny.SIDE,
        width=tiny.SIDE,
        num_frames=tiny.FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=start,
        output_type="latent",
    ).frames
    torch.testing.assert_close(x, found, atol=1e-5, rtol=1e-5)
    assert (x - start).abs().mean() > 0.1


@families
def test_each_prompt_is_shown_its_own_picture_and_learns_from_it(family: str, folder: Folder) -> None:
    policy = policy_of(build(folder(family)))
    media = [torch.rand(tiny.FRAMES, 3, tiny.SIDE, tiny.SIDE)] * 2
    rng = torch.Generator().manual_seed(0)
    encoded = policy.encode(PROMPTS, media, rng)
    assert encoded.latents.shape == (2, *policy.model.latent_shape)
    assert not torch.equal(encoded.condition["begin"][0], encoded.condition["begin"][1])
    policy.log_likelihood(encoded, policy.draw(encoded, rng)).sum().sum().backward()
    assert all(weight.grad is not None for weight in policy.model.weights.trainable().values())
    with torch.no_grad():
        both, alone = policy.sample(PROMPTS, [1, 2]).media, policy.sample(PROMPTS[1:], [2]).media
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    other = policy.sample([Prompt(TEXTS[1], images=PICTURES[:1])], [2]).media
    assert not torch.allclose(alone, other, atol=1e-3)


def test_what_is_kept_of_a_picture_is_not_computed_again(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(build(folder("wan-from-picture")))
    pictures.to_image(PICTURES[0]).save(tmp_path / "first.png")
    prompt = Prompt("a", images=[tmp_path / "first.png"])
    now = policy.encodings.shown([prompt])
    policy.encodings.keep(lambda fingerprint: Store(tmp_path / fingerprint))
    policy.encodings.fill([], [], prompt.images)
    monkeypatch.setattr(policy.model.family, "shown", None)
    kept = policy.encodings.shown([prompt])
    assert now.keys() == kept.keys() == {"begin", "picture_embeds"}
    assert all(torch.equal(now[name], kept[name]) for name in now)


def test_a_prompt_that_shows_no_picture_is_named(folder: Folder) -> None:
    policy = policy_of(build(folder("cogvideox-from-picture")))
    with pytest.raises(UserError, match="'a red star' shows 0 pictures, but this model begins with one"):
        policy.sample([Prompt("a red star")], [0])


def test_models_from_text_look_at_no_picture(folder: Folder) -> None:
    policy = policy_of(build(folder("wan")))
    assert policy.encodings.shown(PROMPTS) == {}
