"""The pretraining's own parts: a tokenizer for any word, an autoencoder whose latents are centred, a CLIP folder."""

from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import AutoencoderKL

from mmalign_shapes import grammar
from mmalign_shapes.pretrain.clip import in_order, new_clip, save_clip
from mmalign_shapes.pretrain.data import World, floats, make_world
from mmalign_shapes.pretrain.everything import finished
from mmalign_shapes.pretrain.generator import LENGTH, answers, learned_merges, new_scheduler, new_tokenizer, tokenize
from mmalign_shapes.pretrain.vae import decode, encode, new_vae, standardised, train_vae

TEXTS = ["a red circle left of a blue square", "there is a green cross"]


@pytest.fixture(scope="module")
def world() -> World:
    """A few pictures."""
    return make_world(48, seed=0)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """Untrained, with latents that have a mean."""
    torch.manual_seed(0)
    vae = new_vae().eval().requires_grad_(False)
    vae.quant_conv.bias += 0.5
    return vae


def test_standardising_changes_the_latents_and_not_the_pictures(world: World, vae: AutoencoderKL) -> None:
    pictures = floats(world.pictures) * 2 - 1
    before = vae(pictures).sample
    standardised(vae, world.pictures)
    assert torch.allclose(vae(pictures).sample, before, atol=1e-4)
    latents = encode(vae, world.pictures)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert abs(float(latents.std()) - 1) < 1e-2


def test_the_autoencoder_learns_and_its_latents_are_standard(world: World) -> None:
    torch.manual_seed(0)
    untrained, trained = new_vae().eval().requires_grad_(False), train_vae(world, steps=8, seed=0)
    drawn = floats(world.pictures)
    errors = [(decode(vae, encode(vae, world.pictures)) - drawn).abs().mean() for vae in (trained, untrained)]
    assert errors[0] < errors[1]
    assert torch.allclose(encode(trained, world.pictures).std(dim=(0, 2, 3)), torch.ones(8), atol=1e-2)
    assert not any(weight.requires_grad for weight in trained.parameters())


def test_training_depends_on_its_seed_alone(world: World) -> None:
    once, again, other = (train_vae(world, steps=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_what_is_finished_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def make() -> AutoencoderKL:
        made.append(1)
        return new_vae()

    first = finished(tmp_path / "work/vae", AutoencoderKL.from_pretrained, make)
    second = finished(tmp_path / "work/vae", AutoencoderKL.from_pretrained, make)
    assert len(made) == 1
    assert torch.equal(first.decoder.conv_in.weight, second.decoder.conv_in.weight)


def test_a_caption_and_the_same_turned_round_have_the_same_answers() -> None:
    claim = grammar.read("a red circle left of a blue square")
    assert answers(in_order(claim)) == answers(in_order(grammar.turned_round(claim)))
    assert answers(in_order(claim)) != answers(in_order(grammar.read("a blue square left of a red circle")))


def test_decoding_gives_pictures_with_gradient(vae: AutoencoderKL) -> None:
    latents = torch.randn(2, 8, 8, 8, requires_grad=True)
    pictures = decode(vae, latents)
    pictures.sum().backward()
    assert pictures.shape == (2, 3, 64, 64)
    assert 0 <= float(pictures.detach().min()) <= float(pictures.detach().max()) <= 1
    assert latents.grad is not None


def test_sampling_starts_where_training_ends_and_almost_nothing_of_the_picture_is_left() -> None:
    scheduler = new_scheduler()
    scheduler.set_timesteps(12)
    assert scheduler.timesteps[0] == scheduler.config.num_train_timesteps - 1
    assert scheduler.alphas_cumprod[-1].sqrt() < 0.02


def test_token_ids_are_padded_and_end_with_the_highest_id() -> None:
    tokenizer = new_tokenizer(TEXTS)
    ids = tokenize(tokenizer, [*TEXTS, "an unknown xylophone, é"])
    assert ids.shape == (3, LENGTH)
    assert int(ids.max()) == tokenizer.eos_token_id == len(tokenizer) - 1  # CLIP pools at the highest id
    assert tokenizer.tokenize(TEXTS[0]) == [f"{word}</w>" for word in TEXTS[0].split()]


def test_the_ids_of_tokens_do_not_depend_on_the_order_of_texts() -> None:
    assert new_tokenizer(TEXTS).get_vocab() == new_tokenizer(TEXTS[::-1]).get_vocab()
    assert learned_merges(["ab", "abc", "xbc"]) == [("b", "c</w>"), ("a", "b</w>"), ("a", "bc</w>"), ("x", "bc</w>")]


def test_open_clip_loads_what_was_saved(tmp_path: Path) -> None:
    tokenizer = new_tokenizer(TEXTS)
    clip = new_clip(tokenizer).eval()
    save_clip(clip, tokenizer, tmp_path)
    loaded, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    pictures = torch.rand(2, 3, 64, 64)
    assert torch.equal(ids, tokenize(tokenizer, TEXTS))
    assert torch.equal(loaded.encode_image(pictures), clip.encode_image(pictures))
    assert torch.equal(loaded.encode_text(ids), clip.encode_text(ids))
