"""Data of videos: prompts, true videos, and pairs that simulated annotators have judged."""

import pytest
import torch

from mmalign import plugins
from mmalign.errors import UserError
from mmalign_shapes import moving_captions
from mmalign_shapes.moving_oracle import DIMENSIONS, rate
from mmalign_shapes.videos import ShapesVideoPairs, ShapesVideoPrompts, ShapesVideos


def test_all_captions_come_before_one_comes_again() -> None:
    many = len(moving_captions.captions("held-out"))
    texts = [ShapesVideoPrompts("held-out", size=2 * many, seed=1)[i]["prompt"].text for i in range(2 * many)]
    assert len(set(texts)) == many
    assert texts[:many] == texts[many:]
    assert texts != [ShapesVideoPrompts("held-out", size=2 * many, seed=2)[i]["prompt"].text for i in range(2 * many)]


def test_videos_show_their_captions_and_a_repeated_one_another_time() -> None:
    many = len(moving_captions.captions("held-out"))
    data = ShapesVideos("held-out", size=many + 1)
    first, again = data[0], data[many]
    assert first["prompt"] == again["prompt"]
    assert not first["sample"].equal(again["sample"])
    assert first["sample"].equal(ShapesVideos("held-out", size=1)[0]["sample"])
    assert all(rate(row["sample"], row["prompt"].text).TA == 1 for row in (first, again))


def test_an_annotator_without_errors_says_what_the_oracle_says() -> None:
    data = ShapesVideoPairs(size=12, noise=0.0, indifference=1e-9)
    for row in (data[i] for i in range(len(data))):
        one, other = (rate(row[side], row["prompt"].text) for side in ("first", "second"))
        for name in DIMENSIONS:
            gap = getattr(one, name) - getattr(other, name)
            assert row["preferences"][name] == (gap > 1e-9) - (gap < -1e-9)


def test_errors_and_indifference_change_labels_but_not_videos() -> None:
    plain, noisy, idle = (
        ShapesVideoPairs(size=10, noise=noise, indifference=near)
        for noise, near in ((0.0, 0.05), (1.0, 0.05), (0.0, 1.1))
    )
    rows = [[data[i] for i in range(10)] for data in (plain, noisy, idle)]
    assert all(a["first"].equal(b["first"]) and a["second"].equal(b["second"]) for a, b in zip(*rows[:2], strict=True))
    labels = [[row["preferences"] for row in some] for some in rows]
    assert labels[0] != labels[1]
    assert all(value == 0 for row in labels[2] for value in row.values())
    assert {value for row in labels[0] for value in row.values()} == {1.0, 0.0, -1.0}


def test_they_are_offered_with_what_their_rows_hold() -> None:
    catalogue = plugins.load().catalogue
    for name in ("shapes-video-prompts", "shapes-videos", "shapes-video-pairs"):
        spec = catalogue.find("dataset", name).spec
        row = spec.load()(size=2)[0]
        assert set(row) == spec.columns
        assert all(v.shape == (9, 3, 64, 64) for v in row.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("options", [{"size": 0}, {"split": "test"}, {"things": 3}])
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        ShapesVideoPrompts(**options)
    with pytest.raises(UserError, match="noise"):
        ShapesVideoPairs(noise=-1.0)
