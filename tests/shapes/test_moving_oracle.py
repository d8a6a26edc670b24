"""The oracle of videos: true videos are perfect, what is spoiled falls in its own dimension alone, and it does not guess."""

import random

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmalign import UserError
from mmalign.records import Prompt, Samples
from mmalign_shapes import moving, moving_captions, moving_oracle, rewards
from mmalign_shapes.moving_oracle import DIMENSIONS, rate
from mmalign_shapes.rewards import VideoOracle

TEXT = "a red circle moves left"


def video(text: str = TEXT, seed: int = 0) -> Tensor:
    """A true video of a caption."""
    return moving.pixels([moving.arrange(random.Random(seed), moving_captions.read(text))])[0]


def scores(pixels: Tensor, text: str = TEXT) -> dict[str, float]:
    """The dimensions by name."""
    rated = rate(pixels, text)
    return {name: getattr(rated, name) for name in DIMENSIONS}


def aligned(pixels: Tensor, text: str) -> float:
    """How well a video shows a caption."""
    return rate(pixels, text).TA


@pytest.mark.parametrize(("things", "size"), [(1, 100), (2, 25)])
def test_true_videos_are_perfect(things: int, size: int) -> None:
    rng = random.Random(things)
    drawn = [(c, moving.arrange(rng, c)) for c in rng.choices(moving_captions.captions("train", things), k=size)]
    rated = [rate(moving.pixels([clip])[0], caption) for caption, clip in drawn]
    assert sum(min(one.VQ, one.MQ, one.TA) > 0.99 for one in rated) >= 0.99 * size


@pytest.mark.parametrize(("dimension", "wrong"), [(d, wrong) for d, some in moving.WRONGS.items() for wrong in some])
def test_what_is_wrong_lowers_its_own_dimension_alone(dimension: str, wrong: object) -> None:
    rng = random.Random(3)
    going = [caption for caption in moving_captions.captions("train") if caption[0].motion != "stays"]
    for caption in rng.sample(going, 12):
        rated = rate(moving.pixels([wrong(moving.arrange(rng, caption), rng)])[0], caption)
        for name in DIMENSIONS:
            found = getattr(rated, name)
            assert found <= 0.8 if name == dimension else found >= 0.99, (caption, name, rated)


def test_the_more_it_trembles_the_less_its_motion_is_worth() -> None:
    clip = moving.arrange(random.Random(0), moving_captions.read(TEXT))
    shaken = [moving.pixels([moving.jittered(clip, random.Random(1), by)])[0] for by in (0.0, 0.5, 1.0, 2.0, 4.0)]
    quality = [rate(one, TEXT).MQ for one in shaken]
    assert quality[0] == 1
    assert quality == sorted(quality, reverse=True)
    assert quality[1] > quality[2] > quality[3]


def test_a_still_video_is_smooth_and_clean_but_not_what_was_asked() -> None:
    still = video()[:1].expand(9, -1, -1, -1)
    assert scores(still) == {"VQ": 1, "MQ": 1, "TA": pytest.approx(2 / 3)}
    assert aligned(still, "a red circle stays") == 1


def test_each_of_colour_shape_and_motion_counts_a_third() -> None:
    shown = video()
    for text in ("a blue circle moves left", "a red cross moves left", "a red circle moves up", "a red circle stays"):
        assert aligned(shown, text) == pytest.approx(2 / 3)
    assert aligned(shown, "a blue cross moves right") == 0
    assert aligned(shown, f"{TEXT} and a blue cross stays") == pytest.approx(1 / 2)


def test_things_are_told_apart_whatever_is_named_first() -> None:
    both = "a red circle moves left and a blue square moves down"
    shown = video(both)
    assert aligned(shown, both) == 1
    assert aligned(shown, "a blue square moves down and a red circle moves left") == 1
    assert aligned(shown, "a red circle moves down and a blue square moves left") == pytest.approx(2 / 3)


def test_the_caption_changes_neither_visual_nor_motion_quality() -> None:
    spoiled = moving.jittered(moving.arrange(random.Random(0), moving_captions.read(TEXT)), random.Random(0))
    shown = moving.pixels([spoiled])[0]
    one, other = rate(shown, TEXT), rate(shown, "a black cross stays")
    assert (one.VQ, one.MQ) == (other.VQ, other.MQ)
    assert one.TA != other.TA


def test_one_frame_that_cannot_be_read_costs_visual_quality_alone() -> None:
    shown = video()
    shown[4] = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert scores(shown) == {"VQ": pytest.approx(8 / 9), "MQ": 1, "TA": 1}


@pytest.mark.parametrize("frames", [5, 9])
def test_it_would_rather_be_unsure_than_guess(frames: int) -> None:
    shown = video()
    shown[:frames] = torch.rand(frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rated = rate(shown, TEXT)
    assert rated.unsure
    assert (rated.VQ, rated.MQ, rated.TA) == (0, 0, 0)


def test_an_empty_picture_is_unsure() -> None:
    assert rate(torch.full((9, 3, 64, 64), 0.9), TEXT).unsure


# ---- as a reward


def samples() -> Samples:
    texts = [TEXT, "a blue square stays", "a green cross moves up"]
    return Samples([Prompt(text) for text in texts], torch.stack([video(TEXT), video(texts[1]), video(texts[1])]))


def test_a_reward_of_the_mean_or_of_one_dimension() -> None:
    found = VideoOracle()(samples())
    assert_close(found.values, torch.tensor([1.0, 1.0, 2 / 3]))
    assert set(found.dimensions) == {"VQ", "MQ", "TA", "unsure"}
    for name in DIMENSIONS:
        alone = VideoOracle(dimension=name)(samples())
        assert alone.values.equal(found.dimensions[name])
    assert_close(found.dimensions["TA"], torch.tensor([1.0, 1.0, 0.0]))


def test_all_dimensions_of_a_video_are_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Tensor] = []
    watch = moving_oracle.watch
    monkeypatch.setattr(moving_oracle, "watch", lambda video: watched.append(video) or watch(video))
    monkeypatch.setattr(rewards, "_RATINGS", {})
    given = samples()
    whole = VideoOracle()(given)
    for name in DIMENSIONS:
        assert VideoOracle(dimension=name)(given).values.equal(whole.dimensions[name])
    assert len(watched) == len(given)


def test_what_is_remembered_is_the_pixels_and_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "_RATINGS", {})
    shown = video()[None].clone()
    right = Samples([Prompt(TEXT)], shown)
    assert VideoOracle(dimension="TA")(right).values == 1
    assert VideoOracle(dimension="TA")(Samples([Prompt("a red circle stays")], shown)).values < 1
    shown[0, 4] = 0.5
    assert VideoOracle(dimension="VQ")(right).values < 1


def test_no_more_ratings_are_remembered_than_were_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "_RATINGS", {})
    monkeypatch.setattr(rewards, "_LATELY", 2)
    first = VideoOracle()(samples()).values
    assert len(rewards._RATINGS) == 2
    assert VideoOracle()(samples()).values.equal(first)


def test_scores_follow_their_samples_and_nan_has_none() -> None:
    given = samples()
    media = given.media.clone()
    media[1] = torch.nan
    found = VideoOracle()(Samples(given.prompts, media)).values
    assert found[1].isnan()
    assert_close(found[[0, 2]], VideoOracle()(given).values[[0, 2]])
    assert_close(VideoOracle()(given.picked([2, 0])).values, VideoOracle()(given).values[[2, 0]])
    assert VideoOracle()(Samples([], torch.zeros(0, 9, 3, 64, 64))).values.shape == (0,)


def test_pictures_and_foreign_prompts_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="judges videos"):
        VideoOracle()(Samples([Prompt(TEXT)], torch.zeros(1, 3, 64, 64)))
    with pytest.raises(UserError, match="shapes only"):
        VideoOracle()(Samples([Prompt("a dog runs")], video()[None]))


def test_watching_names_tracks() -> None:
    (track,) = moving_oracle.watch(video())
    assert (str(track.kind), track.motion) == ("red circle", "moves left")
    assert -4.1 < track.velocity[0] < -1.9
    assert abs(track.velocity[1]) < 0.05


def test_what_is_right_may_stay_and_what_is_wrong_may_not() -> None:
    text = "a red circle moves left and a blue square stays"
    pixels = video(text, seed=1)
    right, half = rate(pixels, text), rate(pixels, "a red circle moves right and a blue square stays")
    assert len(right.right) == 2
    assert [str(track.kind) for track in half.right] == ["blue square"]
    kept = VideoOracle()(Samples([Prompt(text)], pixels[None])).places
    assert kept is not None
    assert torch.equal(kept[0], right.stays())
    shown = (pixels - pixels[:, :, :1, :1]).abs().amax(dim=(0, 1)) > 0.2
    assert (right.stays()[shown] == 1).all()
    assert 0 < half.stays().sum() < right.stays().sum() < 64 * 64
    assert rate(torch.rand(9, 3, 64, 64), text).stays().sum() == 0
