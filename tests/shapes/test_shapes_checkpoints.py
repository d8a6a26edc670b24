"""The committed checkpoints: they load as any other would, know every word, and draw and judge as promised."""

from importlib import resources
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline, WanPipeline
from torch import Tensor

from mmalign_shapes import moving_captions, moving_oracle, oracle
from mmalign_shapes.pretrain import video, video_vae
from mmalign_shapes.pretrain.data import floats, make_world
from mmalign_shapes.prompts import captions
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES

ASSETS = Path(str(resources.files("mmalign_shapes"))) / "assets"
WORDS = sorted({*COLORS, *SHAPES, *" ".join(RELATIONS).split(), "a", "is", "and", "there", "picture", "of", ","})


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """Loaded as a stranger would load it."""
    loaded = StableDiffusionPipeline.from_pretrained(ASSETS / "sd")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, list[str]]:
    """Pictures `[100, 3, 64, 64]` in [0, 1] that no training saw, and their captions."""
    world = make_world(100, seed=12345)
    return floats(world.pictures), [str(caption) for caption in world.captions]


def test_all_weights_together_are_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) < 25e6


def test_every_word_is_one_token_and_an_unknown_word_still_is_some(pipeline: StableDiffusionPipeline) -> None:
    assert all(len(pipeline.tokenizer.tokenize(word)) == 1 for word in WORDS)
    assert len(pipeline.tokenizer.tokenize("xylophone")) > 1


def test_the_autoencoder_keeps_what_a_picture_shows(
    pipeline: StableDiffusionPipeline, drawn: tuple[Tensor, list[str]]
) -> None:
    pictures, texts = drawn
    with torch.no_grad():
        latents = pipeline.vae.encode(pictures * 2 - 1).latent_dist.mean
        kept = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert oracle.judge_batch(kept, texts)[0].mean() >= 0.97
    assert abs(float((latents * pipeline.vae.config.scaling_factor).std()) - 1) < 0.1


def test_the_generator_draws_cleanly_and_errs_in_content(pipeline: StableDiffusionPipeline) -> None:
    texts = [str(caption) for caption in captions("held-out")[::5][:48]]
    generator = torch.Generator().manual_seed(0)
    made = pipeline(texts, num_inference_steps=12, guidance_scale=2.0, generator=generator, output_type="pt").images
    correct, unsure = oracle.judge_batch(made, texts)
    assert unsure.mean() <= 0.2
    assert 0.35 <= correct.mean() <= 0.9


def test_clip_prefers_the_true_caption_to_one_with_the_relation_turned() -> None:
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{ASSETS / 'clip'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{ASSETS / 'clip'}")
    world = make_world(100, seed=54321)
    rows = [index for index, caption in enumerate(world.captions) if caption.relation in ("left of", "right of")]
    texts = [str(world.captions[index]) for index in rows]
    turned = [text.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right") for text in texts]
    with torch.no_grad():
        images = model.eval().encode_image(floats(world.pictures[rows]) * 2 - 1, normalize=True)
        true, false = (
            (images * model.encode_text(tokenize(said), normalize=True)).sum(dim=1) for said in (texts, turned)
        )
    assert (true > false).float().mean() >= 0.95


@pytest.fixture(scope="module")
def wan() -> WanPipeline:
    """The generator of videos, loaded as a stranger would load it."""
    return WanPipeline.from_pretrained(ASSETS / "wan")


def test_the_autoencoder_of_videos_keeps_what_they_show(wan: WanPipeline) -> None:
    videos = video_vae.joined(video_vae.draw(24, seed=54321, shaky=0.0))
    with torch.no_grad():
        kept = video_vae.decode(wan.vae, video_vae.encode(wan.vae, videos.pixels))
    found = [moving_oracle.rate(one, caption) for one, caption in zip(kept, videos.captions, strict=True)]
    read = [one for one in found if not one.unsure]
    assert len(read) >= 0.7 * len(found)
    assert all(one.TA == 1 for one in read)


def test_the_generator_of_videos_half_knows_what_is_wanted(wan: WanPipeline) -> None:
    texts = [moving_captions.say(claim) for claim in moving_captions.captions("held-out")]
    made = video.sample(wan, texts, steps=8, guidance_scale=2.0, generator=torch.Generator().manual_seed(0))
    for name in moving_oracle.DIMENSIONS:
        found = [getattr(moving_oracle.rate(*one), name) for one in zip(made, texts, strict=True)]
        assert 0.3 <= sum(found) / len(found) <= 0.9
