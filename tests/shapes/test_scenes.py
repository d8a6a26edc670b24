"""Scenes and their pictures: inside the frame, apart from each other, as the relation says, fixed by the seed."""

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmalign_shapes import render
from mmalign_shapes.pretrain.data import batches, make_world
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, SIZE, Kind, Scene, Thing, draw_scene

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(1, 3))
def test_things_are_different_inside_the_picture_and_do_not_touch(seed: int, count: int) -> None:
    scene = draw_scene(random.Random(seed), count)
    assert len(set(scene.kinds)) == count
    for thing in scene.things:
        assert thing.radius <= thing.x <= SIZE - thing.radius
        assert thing.radius <= thing.y <= SIZE - thing.radius
    for a, b in [(a, b) for a in scene.things for b in scene.things if a is not b]:
        assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


@given(seeds)
def test_two_things_lie_as_their_relation_says_with_a_margin(seed: int) -> None:
    scene = draw_scene(random.Random(seed), 2)
    (a, b), (dx, dy) = scene.things, RELATIONS[str(scene.relation)]
    along = (a.x - b.x) * dx + (a.y - b.y) * dy
    across = abs((a.x - b.x) * dy) + abs((a.y - b.y) * dx)
    assert along > 2 * across


def test_a_drawn_shape_has_its_colour_at_its_centre_and_the_background_elsewhere() -> None:
    for color in COLORS:
        for shape in SHAPES:
            picture = render.pixels([Scene((Thing(Kind(color, shape), 32, 32, 10),), None, 230)])[0]
            assert torch.equal((picture[:, 32, 32] * 255).round().int(), torch.tensor(COLORS[color], dtype=torch.int32))
            assert torch.allclose(picture[:, 2, 2], torch.tensor(230 / 255))


def test_edges_are_antialiased() -> None:
    picture = render.pixels([Scene((Thing(Kind("black", "circle"), 32, 32, 10),), None, 230)])[0, 0] * 255
    assert ((picture > 60) & (picture < 200)).sum() >= 20


def test_a_world_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = make_world(20, 3), make_world(20, 3), make_world(20, 4)
    assert torch.equal(first.pictures, again.pictures)
    assert first.captions == again.captions
    assert first.captions != other.captions
    assert first.pictures.shape == (20, 3, SIZE, SIZE)


def test_an_epoch_of_batches_meets_every_row_once() -> None:
    seen = torch.cat(list(batches(size=12, batch_size=4, steps=6, seed=0)))
    assert sorted(seen[:12].tolist()) == sorted(seen[12:].tolist()) == list(range(12))
    assert seen[:12].tolist() != seen[12:].tolist()
