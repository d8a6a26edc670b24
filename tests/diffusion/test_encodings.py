"""What is kept of real encoders is what they say, whatever stands beside it, and guidance and decoding do without them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mmalign.data.cache import Store
from mmalign.processes.encodings import Encodings
from mmalign.records import Masked, Prompt
from mmalign_diffusion import pictures
from mmalign_diffusion.models import DiffusersModel

from .conftest import FAMILIES, RESOLUTION, build
from .test_policy import PROMPTS, policy_of

Adapted = Callable[[str], DiffusersModel]
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of several sizes."""
    torch.manual_seed(0)
    sizes = [(RESOLUTION, RESOLUTION), (40, 30), (20, 50), (RESOLUTION, RESOLUTION)]
    made = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for file, size in zip(made, sizes, strict=True):
        pictures.to_image(torch.rand(3, *size)).save(file)
    return made


@families
def test_encodings_do_not_depend_on_what_stands_beside_them(family: str, adapted: Adapted, files: list[Path]) -> None:
    encodings = Encodings(adapted(family))
    texts = ["a cat", "a much longer text about two cats", "", "a dog"]
    together, posterior = encodings.condition(texts), encodings.posterior(files)
    for i in (2, 0, 3):
        alone, moments = encodings.condition(texts[i : i + 1]), encodings.posterior(files[i : i + 1])
        assert all(together[name][i].equal(alone[name][0]) for name in together)
        assert posterior.mean[i].equal(moments.mean[0])
        assert posterior.std is not None
        assert moments.std is not None
        assert posterior.std[i].equal(moments.std[0])


@families
def test_a_likelihood_is_the_same_from_what_was_kept(
    family: str, folder: Callable[[str], Path], files: list[Path], tmp_path: Path
) -> None:
    def found(kept: bool) -> list[torch.Tensor]:
        policy, rng = policy_of(build(folder(family))), torch.Generator().manual_seed(0)
        if kept:
            policy.encodings.keep(lambda print_of_model: Store(tmp_path / print_of_model))
            policy.encodings.fill([*(prompt.text for prompt in PROMPTS), ""], files)
            policy.encodings.release()
        rows = [policy.encode([*PROMPTS, Prompt(""), PROMPTS[0]], files, rng) for _ in range(2)]
        likelihoods = [policy.log_likelihood(one, policy.draw(one, rng)).values for one in rows]
        return [*likelihoods, policy.sample(PROMPTS, [1, 2]).media]

    plain = found(False)
    for _ in range(2):
        assert all(one.equal(other) for one, other in zip(plain, found(True), strict=True))
    assert len(list(tmp_path.iterdir())) == len(files) + 1  # one folder, for one model


class Absent(nn.Module):
    """Stands where an encoder was and cannot be asked."""

    def forward(self, *inputs: object, **named: object) -> None:
        raise AssertionError("an encoder was asked")


@families
def test_what_follows_asks_no_encoder_again(
    family: str, folder: Callable[[str], Path], files: list[Path], tmp_path: Path
) -> None:
    policy = policy_of(build(folder(family)))
    policy.encodings.keep(lambda print_of_model: Store(tmp_path / print_of_model))
    policy.encodings.fill([prompt.text for prompt in PROMPTS], files[:2])
    expected = policy.sample(PROMPTS, [1, 2]).media
    policy.encodings.release()
    pipe = policy.model.pipe
    for name in [name for name in pipe.components if name.startswith("text_encoder")]:
        setattr(pipe, name, Absent())
    pipe.vae.encoder = Absent()
    policy.encode(PROMPTS, files[:2], torch.Generator())
    assert policy.sample(PROMPTS, [1, 2]).media.equal(expected)
    with pytest.raises(AssertionError, match="an encoder was asked"):
        policy.encode(PROMPTS, files[2:], torch.Generator())


def test_the_key_knows_weights_precision_and_resolution(folder: Callable[[str], Path], tmp_path: Path) -> None:
    def name_of(**options: object) -> str:
        encodings = Encodings(build(folder("sd"), **options))
        return encodings.keep(lambda print_of_model: Store(tmp_path / print_of_model)).folder.name

    assert name_of() == name_of(adapter=None)  # what trains does not encode
    assert len({name_of(), name_of(resolution=2 * RESOLUTION), name_of(dtype="bfloat16")}) == 3


def test_encoders_compute_in_their_own_precision(adapted: Adapted, files: list[Path]) -> None:
    encodings = Encodings(adapted("sd"))
    plain = encodings.condition(["a cat"])["prompt_embeds"], encodings.posterior(files[:1]).mean
    with torch.autocast("cpu", torch.bfloat16):
        low = encodings.condition(["a cat"])["prompt_embeds"], encodings.posterior(files[:1]).mean
    assert all(one.equal(other) for one, other in zip(plain, low, strict=True))


def test_a_mask_is_cut_as_its_picture_is(adapted: Adapted, tmp_path: Path) -> None:
    """Of a wide picture the middle is kept; the mask shows its left half, so that the left half of the middle counts."""
    mask = torch.zeros(3, RESOLUTION, 2 * RESOLUTION)
    mask[..., :RESOLUTION] = 1
    pictures.to_image(mask).save(tmp_path / "mask.png")
    encodings, side = Encodings(adapted("sd")), adapted("sd").latent_shape[-1]
    expected = torch.zeros(1, side, side)
    expected[..., : side // 2] = 1
    for given in (tmp_path / "mask.png", mask, mask[0]):
        weights = encodings.weights([Masked(torch.rand(3, RESOLUTION, 2 * RESOLUTION), given)])
        torch.testing.assert_close(weights, expected)
