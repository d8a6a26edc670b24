"""Every reward that is offered keeps the contract, whoever offers it: shape, order, empty batches, NaN, gradient."""

import random

import pytest
import torch
from torch.testing import assert_close

from mmalign import options, plugins
from mmalign.records import Prompt, Samples
from mmalign.rewards.weighted import CheckedReward
from mmalign_shapes import grammar, render, scenes

OPTIONS = {
    "clip-score": {"path": "mmalign_shapes:assets/clip"},
    "oracle": {},
    "colourfulness": {},
    "jpeg-size": {},
}
"""Rewards that build without a download, with the options that they need here."""

TEXTS = [
    "a red circle left of a blue square",
    "a green cross above a black triangle",
    "a yellow square below a red circle",
]


@pytest.fixture(scope="module")
def catalogue():
    return plugins.load().catalogue


@pytest.fixture(params=OPTIONS)
def offered(request, catalogue):
    spec = catalogue.find("reward", request.param).spec
    reward = spec.load()(**options.parsed(spec, OPTIONS[request.param]))
    return CheckedReward(request.param, reward), spec


def samples(n: int = 3) -> Samples:
    things = [grammar.read(text) for text in TEXTS[:n]]
    rng = random.Random(0)
    drawn = [scenes.place(rng, list(claim.kinds), claim.relation) for claim in things]
    return Samples([Prompt(text) for text in TEXTS[:n]], render.pixels(drawn))


def test_every_offered_reward_says_what_it_is(catalogue):
    for name, offer in catalogue.offers("reward").items():
        assert offer.spec.load().__doc__, f"{name} has no docstring"
        assert options.schema(offer.spec) is not None


def test_scores_follow_their_samples(offered):
    reward, _ = offered
    order = [2, 0, 1]
    given = samples()
    permuted = Samples([given.prompts[i] for i in order], given.media[order])
    assert_close(reward(permuted).values, reward(given).values[order], atol=1e-5, rtol=1e-5)


def test_one_sample_scores_as_among_others(offered):
    reward, _ = offered
    given = samples()
    assert_close(reward(given[1:2]).values, reward(given).values[1:2], atol=1e-5, rtol=1e-5)


def test_no_samples_have_no_scores(offered):
    reward, _ = offered
    assert reward(Samples([], torch.zeros(0, 3, 64, 64))).values.shape == (0,)


def test_pixels_that_are_no_numbers_have_no_score_and_spoil_no_other(offered):
    reward, _ = offered
    given = samples()
    media = given.media.clone()
    media[1] = torch.nan
    values = reward(Samples(given.prompts, media)).values
    assert values[1].isnan()
    assert_close(values[[0, 2]], reward(given).values[[0, 2]], atol=1e-5, rtol=1e-5)


def test_samples_stay_as_they_were(offered):
    reward, _ = offered
    given = samples()
    before = given.media.clone()
    reward(given)
    assert given.media.equal(before)


def test_a_differentiable_reward_has_a_gradient(offered):
    reward, spec = offered
    if not spec.differentiable:
        pytest.skip("not offered as differentiable")
    given = samples()
    media = given.media.requires_grad_(True)
    (slope,) = torch.autograd.grad(reward(Samples(given.prompts, media)).values.sum(), media)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0
