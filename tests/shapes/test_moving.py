"""Moving scenes and what is said of them: things do as they are told, and what is held out never occurs in training."""

import random
from itertools import pairwise

import pytest

from mmalign.errors import UserError
from mmalign_shapes import moving, moving_captions
from mmalign_shapes.moving import FRAMES, MOTIONS, Mover
from mmalign_shapes.scenes import SIZE, Kind

CIRCLE = Mover(Kind("red", "circle"), "moves left")


@pytest.mark.parametrize("things", [1, 2])
def test_things_move_evenly_their_way_and_stay_within_the_picture(things: int) -> None:
    rng = random.Random(0)
    for caption in rng.sample(moving_captions.captions("train", things), 20):
        clip = moving.arrange(rng, caption)
        assert len(clip) == FRAMES
        for number, mover in enumerate(caption):
            path = [scene.things[number] for scene in clip]
            steps = {(round(b.x - a.x, 6), round(b.y - a.y, 6)) for a, b in pairwise(path)}
            assert len(steps) == 1
            assert tuple((d > 0) - (d < 0) for d in steps.pop()) == MOTIONS[mover.motion]
            assert {thing.kind for thing in path} == {mover.kind}
            assert all(t.radius < c < SIZE - t.radius for t in path for c in (t.x, t.y))


def test_two_things_never_touch() -> None:
    rng = random.Random(1)
    for caption in rng.sample(moving_captions.captions("train", 2), 20):
        for scene in moving.arrange(rng, caption):
            a, b = scene.things
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


def test_a_video_depends_on_its_random_numbers_alone() -> None:
    once, again, other = (moving.pixels([moving.arrange(random.Random(s), [CIRCLE])]) for s in (0, 0, 1))
    assert once.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert once.equal(again)
    assert not once.equal(other)


@pytest.mark.parametrize("things", [1, 2])
def test_captions_are_read_as_they_were_said(things: int) -> None:
    rng = random.Random(0)
    for caption in rng.sample(moving_captions.captions("held-out", things), 20):
        assert moving_captions.read(moving_captions.say(caption)) == caption
        assert moving_captions.read(moving_captions.say(caption, rng)) == caption
    assert moving_captions.say((CIRCLE,)) == "a red circle moves left"


@pytest.mark.parametrize(
    "text",
    ["", "a red circle", "a red circle jumps", "a pink circle stays", "a red circle left of a blue square stays"],
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"grammar|unpack"):
        moving_captions.read(text)


def test_no_held_out_combination_occurs_in_training() -> None:
    held_out = {caption[0] for caption in moving_captions.captions("held-out")}
    assert 0.1 < len(held_out) / len(moving.movers()) < 0.3
    assert not any(held_out & set(c) for things in (1, 2) for c in moving_captions.captions("train", things))
    assert all(held_out & set(caption) for caption in moving_captions.captions("held-out", 2))
    assert {mover.motion for mover in held_out} == set(MOTIONS)


def test_a_corrupted_caption_names_another_colour_or_motion() -> None:
    rng = random.Random(0)
    found = set()
    for _ in range(30):
        (wrong,) = moving_captions.corrupted((CIRCLE,), rng)
        assert wrong.kind.shape == "circle"
        found.add((wrong.kind.color == "red", wrong.motion == "moves left"))
    assert found == {(True, False), (False, True)}


def test_impossible_options_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="held-out"):
        moving_captions.captions("test")
    with pytest.raises(UserError, match="things"):
        moving_captions.captions("train", 3)
