"""The pretraining of the Wan pipeline: latents that are standard, a reader, a pipeline that diffusers loads and samples."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from torch.testing import assert_close

from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.records import Prompt
from mmalign_shapes import moving_captions
from mmalign_shapes.pretrain import everything, video, video_vae
from mmalign_shapes.pretrain.generator import Phase
from mmalign_shapes.rewards import VideoOracle
from mmalign_video.models import VideoModel

TEXTS = ["a red circle moves left", ""]


@pytest.fixture(scope="module")
def videos() -> video_vae.Videos:
    return video_vae.joined(video_vae.draw(8, seed=0))


def test_the_autoencoder_learns_and_its_latents_are_standard(videos: video_vae.Videos) -> None:
    trained = video_vae.train_vae(videos, steps=2, seed=0)
    latents = video_vae.encode(trained, videos.pixels)
    assert latents.shape == (8, 8, 5, 8, 8)
    assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(8), atol=1e-4, rtol=0)
    assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(8), atol=1e-3, rtol=0)
    latents = latents[:1].requires_grad_()
    made = video_vae.decode(trained, latents)
    made.sum().backward()
    assert made.shape == (1, 9, 3, 64, 64)
    assert latents.grad is not None


def test_the_transformer_is_told_what_the_pipeline_tells_it(videos: video_vae.Videos) -> None:
    torch.manual_seed(0)
    tokenizer = video.new_video_tokenizer()
    text_encoder = video.new_text_encoder(tokenizer).eval()
    pipe = video.pipeline(video_vae.new_vae(), text_encoder, tokenizer, video.new_transformer())
    told, _ = pipe.encode_prompt(TEXTS, do_classifier_free_guidance=False, max_sequence_length=video.LENGTH)
    assert_close(told, video.embed(text_encoder, tokenizer, TEXTS))
    longest = max(
        (
            video.tokenize(tokenizer, [moving_captions.say(c)])[1].sum()
            for c in moving_captions.captions("train", 2)[:50]
        ),
        key=int,
    )
    assert longest < video.LENGTH


def test_every_caption_has_its_own_answers() -> None:
    known = moving_captions.captions("train") + moving_captions.captions("train", 2)
    assert len({tuple(video.answers(caption)) for caption in known}) == len(known)


def test_all_stages_end_in_a_pipeline_that_diffusers_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SEEN_VIDEOS": 8, "VIDEOS": 8, "VIDEO_VAE_STEPS": 1, "UNSEEN": 2}.items():
        monkeypatch.setattr(everything, name, value)
    monkeypatch.setattr(video, "READING_STEPS", 1)
    monkeypatch.setattr(video, "BATCH_SIZE", 4)
    monkeypatch.setattr(video, "PHASES", (Phase(1, 2, 0.1),))
    everything.pretrain_video(tmp_path, seed=0)
    pipe = WanPipeline.from_pretrained(tmp_path / "wan")
    assert pipe.tokenizer.model_max_length == video.LENGTH
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {torch.float32}
    made = video.sample(pipe, TEXTS[:1], steps=1, guidance_scale=2.0, generator=torch.Generator().manual_seed(0))
    assert made.shape == (1, 9, 3, 64, 64)
    assert sum(file.stat().st_size for file in (tmp_path / "wan").rglob("*")) < 3_500_000
    model = VideoModel(str(tmp_path / "wan"), adapter=None, height=64, width=64, frames=9)
    assert model.latent_shape == (video_vae.CHANNELS, 5, 8, 8)
    samples = DenoisingPolicy(model, Sampling(steps=1, guidance_scale=2.0)).sample([Prompt(TEXTS[0])], [0])
    assert VideoOracle()(samples).values.shape == (1,)
    monkeypatch.setattr(video, "train_transformer", None)  # what is finished is read again
    everything.pretrain_video(tmp_path, seed=0)
