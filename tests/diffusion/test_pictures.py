"""Pictures as files and as pixels."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_diffusion import pictures, plugin


def samples(media: torch.Tensor) -> Samples:
    return Samples([Prompt("x")] * len(media), media)


def test_a_path_bytes_and_pixels_of_one_picture_are_the_same(picture_file: Path) -> None:
    by_path = pictures.read(picture_file)
    assert by_path.shape == (3, 24, 40)
    assert by_path[:, 0, 0].tolist() == [1, 0, 0]
    assert torch.equal(pictures.read(str(picture_file)), by_path)
    assert torch.equal(pictures.read(picture_file.read_bytes()), by_path)
    assert torch.equal(pictures.read(by_path), by_path)


def test_the_centre_is_kept(picture_file: Path) -> None:
    fitted = pictures.fit(pictures.read(picture_file)[None], 12)
    assert fitted.shape == (1, 3, 12, 12)
    torch.testing.assert_close(fitted[0, 0].mean(), torch.tensor(0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (7, 90), (12, 13)])
def test_any_shape_becomes_the_square(shape: tuple[int, int]) -> None:
    assert pictures.fit(torch.rand(2, 3, *shape), 12).shape == (2, 3, 12, 12)


def test_pixels_of_the_right_size_are_untouched() -> None:
    pixels = torch.rand(1, 3, 12, 12)
    assert pictures.fit(pixels, 12) is pixels


def test_fitting_a_picture_passes_gradient_on() -> None:
    pixels = torch.rand(1, 3, 20, 20, requires_grad=True)
    pictures.fit(pixels, 12, "bicubic").sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().min() > 0


def test_an_adapter_reads_pictures_at_its_resolution(adapted, picture_file: Path) -> None:
    pixels = adapted("sd").pixels([picture_file, torch.rand(3, 50, 70), picture_file.read_bytes()])
    assert pixels.shape == (3, 3, 16, 16)
    assert torch.equal(pixels[0], pixels[2])


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no such picture: {tmp_path / 'none.png'}"):
        pictures.read(tmp_path / "none.png")


def test_an_unreadable_picture_is_named(tmp_path: Path, picture_file: Path) -> None:
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(UserError, match=r"cannot read picture .*text\.png"):
        pictures.read(tmp_path / "text.png")
    (tmp_path / "torn.png").write_bytes(picture_file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot read picture .*torn\.png"):
        pictures.read(tmp_path / "torn.png")
    with pytest.raises(UserError, match="picture in 3 bytes of data"):
        pictures.read(b"abc")


def test_transparent_and_grey_pictures_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (5, 4)).save(tmp_path / "other.png")
        assert pictures.read(tmp_path / "other.png").shape == (3, 4, 5)


def test_samples_are_written_as_png_and_read_back(tmp_path: Path) -> None:
    media = torch.randint(0, 256, (5, 3, 6, 4)) / 255
    paths = plugin.mmalign_write_samples(samples=samples(media), folder=tmp_path)
    assert paths is not None
    assert [path.name for path in paths] == ["0000.png", "0001.png", "0002.png", "0003.png", "0004.png"]
    read = [plugin.mmalign_read_media(path=path) for path in paths]
    torch.testing.assert_close(torch.stack([one for one in read if one is not None]), media)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (3 * 6 - 2, 2 * 8 - 2)


def test_what_is_no_picture_is_left_to_others(tmp_path: Path) -> None:
    assert plugin.mmalign_write_samples(samples=samples(torch.rand(2, 3, 5, 8, 8)), folder=tmp_path) is None
    assert plugin.mmalign_write_samples(samples=samples(torch.rand(2, 1, 8, 8)), folder=tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert plugin.mmalign_read_media(path=tmp_path / "clip.mp4") is None


def test_pixels_that_are_no_numbers_can_still_be_drawn() -> None:
    assert pictures.to_image(torch.full((3, 2, 2), torch.nan)).getpixel((0, 0)) == (0, 0, 0)
