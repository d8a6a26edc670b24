"""Videos as files and as frames."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_video import plugin, videos
from mmalign_video.sheet import sheet, spaced

GREYS = torch.linspace(0.1, 0.9, 9)
"""One a frame."""


def clip(frames: int = 9, height: int = 32, width: int = 48) -> Tensor:
    """A video that grows brighter."""
    return GREYS[:frames, None, None, None].expand(frames, 3, height, width)


def samples(*media: Tensor, frame_rate: float | None = 8.0) -> Samples:
    prompts = [Prompt(f"a grey wall number {i} that grows brighter") for i in range(len(media))]
    return Samples(prompts, torch.stack(media), frame_rate=frame_rate)


def written(
    path: Path, times: Sequence[int], codec: str = "libvpx", frames: Tensor | None = None, **options: str
) -> Path:
    """A file whose frames are shown from `times` on, in milliseconds."""
    levels = ((clip() if frames is None else frames) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *levels.shape[1:3], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()
        for picture, time in zip(levels, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bare(path: Path, codec: str, kind: str, frames: Tensor) -> Path:
    """A stream of a codec as it comes out of its encoder, ten frames a second."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10 if kind == "h264" else 25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[-2:], "yuv420p"
        for picture in (frames * 255).byte().permute(0, 2, 3, 1).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def resized(path: Path) -> Path:
    """Two videos of different sizes, one behind the other in one file."""
    sizes = [(32, 48), (48, 64)]
    parts = [bare(path.with_suffix(f".{h}.mpg"), "mpeg1video", "mpeg", clip(9, h, w)) for h, w in sizes]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def greys(frames: Tensor) -> list[int]:
    """Which of `GREYS` each frame is nearest to."""
    return [int((GREYS - frame.mean()).abs().argmin()) for frame in frames]


@pytest.mark.parametrize("frame_rate", [8.0, 16.0, 23.976, None])
def test_samples_are_written_as_mp4_and_read_back(frame_rate: float | None, tmp_path: Path) -> None:
    made = samples(clip(), 1 - clip(), frame_rate=frame_rate)
    paths = plugin.mmalign_write_samples(samples=made, folder=tmp_path)
    assert paths is not None
    assert [path.name for path in paths] == ["0000.mp4", "0001.mp4"]
    read = torch.stack([plugin.mmalign_read_media(path=path) for path in paths])
    torch.testing.assert_close(read, made.media, atol=0.03, rtol=0)
    again = videos.read(paths[0], frame_rate or videos.FRAME_RATE, 9)
    assert torch.equal(again, read[0])
    with av.open(str(paths[0])) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(frame_rate or 8.0, rel=1e-3)
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    (path,) = videos.write(samples(clip(5, 33, 47)), tmp_path)
    assert videos.read(path).shape == (5, 3, 34, 48)


def test_the_sheet_has_a_line_a_prompt(tmp_path: Path) -> None:
    videos.write(samples(clip(), clip(), clip()), tmp_path)
    with Image.open(tmp_path / "grid.png") as drawn:
        # 48 pixels are shown as 96; 8 of 9 frames; a line of text above each row.
        assert drawn.size == (8 * 98 - 2, 3 * (64 + 2 + 18))
        row = [drawn.getpixel((column * 98 + 40, 50))[0] for column in range(8)]
    assert row == sorted(row)
    assert [spaced(9, 8)[0], spaced(9, 8)[-1]] == [0, 8]
    assert spaced(3, 8) == [0, 1, 2]


def test_long_prompts_are_cut_off_on_the_sheet() -> None:
    assert sheet(clip(2)[None], ["word " * 100]).width == 2 * 98 - 2


def test_what_is_no_video_is_left_to_others(tmp_path: Path) -> None:
    pictures = Samples([Prompt("x")] * 2, torch.rand(2, 3, 8, 8))
    assert plugin.mmalign_write_samples(samples=pictures, folder=tmp_path) is None
    assert plugin.mmalign_write_samples(samples=Samples([Prompt("x")], ["a text"]), folder=tmp_path) is None
    assert plugin.mmalign_read_media(path=tmp_path / "picture.png") is None
    assert list(tmp_path.iterdir()) == []


def test_gifs_are_videos_only_where_they_move(tmp_path: Path) -> None:
    shades = [Image.new("L", (32, 32), shade) for shade in (20, 90, 160)]
    shades[0].save(tmp_path / "moves.gif", save_all=True, append_images=shades[1:], duration=100)
    shades[0].save(tmp_path / "still.gif")
    moves = plugin.mmalign_read_media(path=tmp_path / "moves.gif")
    assert moves is not None
    assert moves.shape == (3, 3, 32, 32)
    assert plugin.mmalign_read_media(path=tmp_path / "still.gif") is None


def test_webm_and_bytes_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "clip.webm", range(0, 900, 100))
    assert greys(videos.read(path)) == list(range(9))
    assert greys(videos.read(path.read_bytes())) == list(range(9))


def test_another_rate_shows_what_is_shown_at_each_moment(tmp_path: Path) -> None:
    path = written(tmp_path / "clip.webm", range(0, 900, 100))
    assert greys(videos.read(path, 5.0)) == [0, 2, 4, 6, 8]
    assert greys(videos.read(path, 20.0))[:6] == [0, 0, 1, 1, 2, 2]
    assert greys(videos.read(path, 5.0, 3)) == [0, 2, 4]


@pytest.mark.parametrize(
    ("count", "rate", "wanted"), [(33, 16, 2), (81, 16, 2), (49, 8, 2), (97, 24, 2), (9, 8, 2), (9, 8, 3)]
)
def test_in_memory_the_same_frames_are_shown_as_of_a_file(
    count: int, rate: float, wanted: float, tmp_path: Path
) -> None:
    frames = torch.rand(count, 3, 16, 16)
    (path,) = videos.write(samples(frames, frame_rate=rate), tmp_path)
    assert videos.at_rate(frames, rate, wanted).shape == videos.read(path, wanted).shape


def test_a_rate_that_varies_is_made_even_by_timestamps(tmp_path: Path) -> None:
    """Three quick frames, then one that stays, then quick ones again."""
    path = written(tmp_path / "clip.mkv", [0, 100, 200, 300, 800, 900, 1000, 1100, 1200])
    assert greys(videos.read(path, 10.0)) == [0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8]


def test_a_video_that_is_too_short_is_told_with_its_length(tmp_path: Path) -> None:
    path = written(tmp_path / "short.webm", range(0, 900, 100))
    with pytest.raises(
        UserError, match=r"video .*short\.webm has 5 frames at 5 a second, but the model needs 17: remove"
    ):
        videos.read(path, 5.0, 17)
    with pytest.raises(UserError, match=r"a tensor of shape \[9, 3, 32, 48\] has 9 frames, but the model needs 17"):
        videos.read(clip(), 5.0, 17)


def test_a_picture_is_no_video() -> None:
    with pytest.raises(UserError, match=r"a tensor of shape \[3, 8, 8\] is no video"):
        videos.read(torch.rand(3, 8, 8))


def test_no_frames_at_all_are_told_as_such() -> None:
    with pytest.raises(UserError, match=r"\[0, 3, 8, 8\] has 0 frames, but the model needs 1: remove"):
        videos.read(torch.empty(0, 3, 8, 8))


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this build of FFmpeg has no H.264 encoder")
def test_a_bare_stream_without_timestamps_is_shown_frame_by_frame(tmp_path: Path) -> None:
    path = bare(tmp_path / "bare.mp4", "libx264", "h264", clip())
    with av.open(str(path)) as container:
        assert all(frame.time is None for frame in container.decode(video=0))
    assert greys(videos.read(path)) == list(range(9))


def test_a_video_that_changes_its_size_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"size\.mpg changes its size \(48x32, then 64x48\): replace the file"):
        videos.read(resized(tmp_path / "size.mpg"))


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no such video: {tmp_path / 'none.mp4'}"):
        videos.read(tmp_path / "none.mp4")


def test_an_unreadable_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(UserError, match=r"cannot read video .*text\.mp4 \(.*\): replace the file or remove its row"):
        plugin.mmalign_read_media(path=tmp_path / "text.mp4")
    with pytest.raises(UserError, match="cannot read a video in 3 bytes of data"):
        videos.read(b"abc")


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.75])
def test_a_truncated_video_is_told(name: str, share: float, tmp_path: Path) -> None:
    noise = torch.rand(9, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    times = range(0, 900, 100)
    if name == "clip.mp4":
        path = written(tmp_path / name, times, "mpeg4", noise, movflags="faststart")
    else:
        path = written(tmp_path / name, times, frames=noise)
    assert len(videos.read(path)) == 9
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"{name}.*replace the file or remove its row"):
        videos.read(path)


def test_a_file_with_only_sound_is_told(sound: Path) -> None:
    with pytest.raises(UserError, match=r"voice\.mp4 holds only sound: replace"):
        videos.read(sound)


def test_a_video_without_frames_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "none.mkv", [], frames=torch.empty(0, 3, 32, 32))
    with pytest.raises(UserError, match=r"none\.mkv .*: replace"):
        videos.read(path)
