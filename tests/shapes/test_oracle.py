"""The oracle: right on drawings, wrong for no corrupted caption, and unsure rather than guessing."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmalign_shapes import grammar, oracle, render
from mmalign_shapes.scenes import COLORS, Kind, Scene, Thing, draw_scene


def _drawn(size: int, seed: int) -> tuple[Tensor, list[str]]:
    rng = random.Random(seed)
    scenes = [draw_scene(rng, rng.choice((1, 2, 2, 3))) for _ in range(size)]
    return render.pixels(scenes), [grammar.say(grammar.caption_of(scene), rng) for scene in scenes]


def _one(kind: Kind, x: float = 32, y: float = 32, radius: float = 10) -> Thing:
    return Thing(kind, x, y, radius)


def _picture(*things: Thing) -> Tensor:
    return render.pixels([Scene(things, None, 232)])[0]


def _blurred(pictures: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-(torch.arange(-4.0, 5.0) ** 2) / (2 * sigma**2))
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    return F.conv2d(F.pad(pictures, (4,) * 4, mode="replicate"), kernel.expand(3, 1, 9, 9), groups=3)


def test_at_least_99_of_100_drawings_are_right() -> None:
    correct, unsure = oracle.judge_batch(*_drawn(400, seed=0))
    assert correct.mean() >= 0.99
    assert not (correct & unsure).any()


def test_no_corrupted_or_miscounted_caption_is_accepted() -> None:
    pictures, texts = _drawn(200, seed=1)
    rng = random.Random(1)
    for change in (grammar.corrupted, grammar.miscounted):
        wrong = [str(change(grammar.read(text), rng)) for text in texts]
        assert oracle.judge_batch(pictures, wrong)[0].sum() == 0


@pytest.mark.parametrize(("sigma", "least"), [(0.7, 0.98), (1.0, 0.93)])
def test_blur_makes_it_unsure_before_it_makes_it_wrong(sigma: float, least: float) -> None:
    pictures, texts = _drawn(200, seed=2)
    correct, unsure = oracle.judge_batch(_blurred(pictures, sigma), texts)
    assert correct.mean() >= least
    assert (~correct & ~unsure).mean() <= 0.005


@pytest.mark.parametrize(("noise", "least"), [(0.05, 0.97), (0.10, 0.90)])
def test_noise_makes_it_unsure_before_it_makes_it_wrong(noise: float, least: float) -> None:
    pictures, texts = _drawn(200, seed=3)
    generator = torch.Generator().manual_seed(0)
    noisy = (pictures + noise * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)
    correct, unsure = oracle.judge_batch(noisy, texts)
    assert correct.mean() >= least
    assert (~correct & ~unsure).mean() <= 0.005


def test_an_empty_picture_shows_nothing_and_fits_no_caption() -> None:
    blank = torch.full((3, 64, 64), 0.9)
    assert oracle.look(blank).things == ()
    assert not oracle.judge(blank, "a red circle").correct
    assert oracle.caption_seen(oracle.look(blank)) is None


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(torch.full((3, 64, 64), torch.nan), id="not a number"),
        pytest.param(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), id="noise"),
        pytest.param(
            _picture(_one(Kind("red", "circle"), x=24), _one(Kind("red", "square"), x=38)), id="two merged into one"
        ),
        pytest.param(_picture(_one(Kind("red", "circle"), radius=3.5)), id="a crumb"),
        pytest.param(
            _picture(_one(Kind("blue", "square")), _one(Kind("red", "circle"), x=39, y=39)), id="half covered"
        ),
    ],
)
def test_what_is_not_clear_is_unsure(picture: Tensor) -> None:
    assert not oracle.look(picture).sure


@pytest.mark.parametrize("mixed", [("red", "green"), ("yellow", "blue"), ("blue", "green")])
def test_a_colour_between_two_is_unsure(mixed: tuple[str, str]) -> None:
    ones, others = (_picture(_one(Kind(color, "square"))) for color in mixed)
    assert not oracle.look((ones + others) / 2).sure


def test_a_shape_with_a_piece_bitten_off_is_unsure() -> None:
    bitten = _picture(_one(Kind("red", "square")))
    bitten[:, 32:, 32:] = 232 / 255
    assert not oracle.look(bitten).sure


def test_a_faint_thing_is_neither_overlooked_nor_believed() -> None:
    blank, drawn = _picture(), _picture(_one(Kind("blue", "circle")))
    assert not oracle.look(0.6 * blank + 0.4 * drawn).sure
    assert oracle.look(0.9 * blank + 0.1 * drawn).things == ()


def test_an_extra_thing_makes_a_caption_wrong_though_all_it_says_is_there() -> None:
    things = [_one(Kind("red", "circle"), 14, 32), _one(Kind("blue", "square"), 50, 32)]
    extra = _one(Kind("green", "cross"), 32, 54, 9)
    caption = "a red circle left of a blue square"
    assert oracle.judge(_picture(*things), caption).correct
    assert not oracle.judge(_picture(*things, extra), caption).correct


def test_neither_above_nor_beside_holds_on_the_diagonal_for_both() -> None:
    things = [_one(Kind("red", "circle"), 16, 16), _one(Kind("blue", "square"), 48, 44)]
    held = [
        relation
        for relation in ("left of", "right of", "above", "below")
        if oracle.judge(_picture(*things), f"a red circle {relation} a blue square").correct
    ]
    assert held == ["left of"]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_what_is_seen_is_what_was_drawn(seed: int, count: int) -> None:
    scene = draw_scene(random.Random(seed), count)
    seen = oracle.look(render.pixels([scene])[0])
    if seen.sure:
        assert sorted(str(thing.kind) for thing in seen.things) == sorted(map(str, scene.kinds))


def test_places_and_sizes_are_seen_to_a_pixel() -> None:
    for color in COLORS:
        (seen,) = oracle.look(_picture(_one(Kind(color, "circle"), 20, 40, 9))).things
        assert np.allclose([seen.x, seen.y, seen.radius], [20, 40, 9], atol=1)


def test_a_batch_is_judged_picture_by_picture() -> None:
    pictures, texts = _drawn(6, seed=5)
    order = [3, 0, 5, 1, 4, 2]
    correct, unsure = oracle.judge_batch(pictures, texts)
    shuffled = oracle.judge_batch(pictures[order], [texts[index] for index in order])
    assert (correct[order] == shuffled[0]).all()
    assert (unsure[order] == shuffled[1]).all()
    assert [len(part) for part in oracle.judge_batch(pictures[:0], [])] == [0, 0]


def test_a_caption_outside_the_grammar_is_an_error_not_a_wrong_picture() -> None:
    with pytest.raises(ValueError, match="unicorn"):
        oracle.judge(_picture(_one(Kind("red", "circle"))), "a red unicorn")
