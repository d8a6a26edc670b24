"""Annotators who disagree: PAL and VPL as formulas, against Bradley-Terry, and on two camps of opposite taste."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError
from mmalign.builtin import held_out
from mmalign.objectives import bradley_terry, pal, vpl
from mmalign.records import EVERY, Samples, Scores
from mmalign.rewards.annotator import Annotator
from mmalign.rewards.trained import RewardModel
from unit.toy import prompts, rng
from unit.toy_scores import parts, policy

CAMPS = {"ann": 1, "amy": 1, "bob": -1, "ben": -1}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def plain(first, second, preferences):
    """Bradley-Terry of a score each."""
    ones = torch.ones_like(preferences)
    return bradley_terry.loss(first, second, preferences, ones, ("score",)).values


# ---- formulas


def test_golden_number_of_the_divergence():
    found = vpl.divergence(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, -0.5]]))
    assert found.item() == pytest.approx(0.6782653, abs=1e-6)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-1, 1)), min_size=1, max_size=4))
def test_the_divergence_is_0_for_a_stranger_and_above_for_all_others(cells):
    mean, log_variance = (torch.tensor([row], dtype=torch.float64) for row in zip(*cells, strict=True))
    assert vpl.divergence(mean, log_variance).item() >= -1e-12
    assert vpl.divergence(mean * 0, log_variance * 0).item() == 0


PREFERENCES = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)


def test_one_prototype_is_bradley_terry_whoever_says_it():
    first, second, z = normal(3, 1), normal(3, 1, seed=1), normal(3, 1, seed=2)
    expected = plain(first, second, PREFERENCES)
    assert_close(pal.loss(first, second, z, PREFERENCES).values, expected)
    found = vpl.loss(first, second, z, z * 0, PREFERENCES, normal(3, 1), weight=0.0).values
    assert_close(found, expected)


def test_an_annotator_is_a_mixture_of_prototypes_and_a_stranger_their_mean():
    first, second, z = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    weights = z.exp() / z.exp().sum(dim=1, keepdim=True)
    expected = plain((weights * first).sum(1, True), (weights * second).sum(1, True), PREFERENCES)
    assert_close(pal.loss(first, second, z, PREFERENCES).values, expected)
    mean = plain(first.mean(1, True), second.mean(1, True), PREFERENCES)
    assert_close(pal.loss(first, second, 0 * z, PREFERENCES).values, mean)
    sure = plain(first[:, :1], second[:, :1], PREFERENCES)
    only = torch.tensor([[60.0, 0, 0, 0]], dtype=torch.float64).expand(3, 4)
    assert_close(pal.loss(first, second, only, PREFERENCES).values, sure)


def test_swapped_sides_negate_the_preference():
    first, second, z = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    assert_close(pal.loss(first, second, z, PREFERENCES).values, pal.loss(second, first, z, -PREFERENCES).values)


def test_vpl_is_pal_at_its_draw_and_its_divergence():
    first, second, z, noise = (normal(3, 4, seed=i) for i in range(4))
    spread = normal(3, 4, seed=5)
    found = vpl.loss(first, second, z, spread, PREFERENCES, noise, weight=0.3).values
    drawn = pal.loss(first, second, z + noise * (spread / 2).exp(), PREFERENCES).values
    assert_close(found, drawn + 0.3 * vpl.divergence(z, spread))


# ---- two camps


def camps(n, seed=0, annotators=tuple(CAMPS)):
    """One camp likes every "z", the other none: the more, the better, or the worse."""
    generator, rows = rng(seed), []
    for i in range(n):
        few, more = torch.randint(0, 5, (2,), generator=generator).tolist()
        sides = ["z" * count + "a" * (9 - count) for count in (few, few + 1 + more)]
        who, turned = annotators[i % len(annotators)], bool(torch.rand((), generator=generator) < 0.5)
        preference = -CAMPS[who] * (-1 if turned else 1)  # the second has more, unless they are turned round
        first, second = sides[::-1] if turned else sides
        row = {"first": first, "second": second, "preferences": {EVERY: float(preference)}, "strengths": {}}
        rows.append({"prompt": prompts(1)[0], **row, "annotator": who})
    return rows


def trained(module, names, rows, unseen, steps=60, **options):
    """A model after some steps, and how it does on rows that it did not see."""
    made = parts(*names, objective=module.objective, held_out=unseen, annotators=tuple(CAMPS))
    optimizer = torch.optim.Adam(made.policy.network.parameters(), lr=0.1)
    batch, draws = {name: [row[name] for row in rows] for name in rows[0]}, rng()
    for _ in range(steps):
        loss = module.loss(**module.objective.terms(made, batch, draws), **options).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.policy, held_out.measure(made, 16, 0)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        pytest.param(pal, {}, marks=pytest.mark.covers("pal", "scoring")),
        pytest.param(vpl, {"weight": 0.01}, marks=pytest.mark.covers("vpl", "scoring")),
    ],
)
def test_two_camps_are_both_predicted_where_one_score_is_at_chance(module, options):
    rows, unseen = camps(48), camps(48, seed=1)
    made, personal = trained(module, ("one", "two"), rows, unseen, **options)
    assert personal["accuracy"] > 0.9
    shared = trained(bradley_terry, ("score",), rows, unseen)[1]
    assert 0.3 < shared["accuracy"] < 0.7
    z, _ = made.tastes(list(CAMPS))
    order = (z[:, 0] - z[:, 1]).sign()  # camps are found, without being told of
    assert order.tolist() in ([1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0])


def test_one_annotator_is_predicted_as_by_one_score():
    rows, unseen = camps(32, annotators=("ann",)), camps(32, seed=1, annotators=("ann",))
    for module, names in ((pal, ("one", "two")), (bradley_terry, ("score",))):
        assert trained(module, names, rows, unseen)[1]["accuracy"] == 1


def test_a_large_divergence_makes_everybody_a_stranger():
    made, found = trained(vpl, ("one", "two"), camps(48), camps(48, seed=1), weight=100.0)
    z, log_variance = made.tastes(list(CAMPS))
    assert z.abs().max() < 0.1
    assert log_variance.abs().max() < 0.1
    assert 0.2 < found["accuracy"] < 0.8


# ---- annotators of a model


def batch(**changed):
    row = {"prompt": prompts(1)[0], "first": "a", "second": "b", "preferences": {EVERY: 1.0}, "strengths": {}}
    return {name: [value] for name, value in {**row, "annotator": "ann", **changed}.items()}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"annotator": ""}, "names no `annotator`"),
        ({"annotator": "anne"}, "does not name 'anne', did you mean 'ann'"),
        ({"annotator": "zoe"}, "does not name 'zoe'; list everybody"),
        ({"preferences": {"quality": 1.0}}, "rows need `preference`"),
    ],
)
@pytest.mark.parametrize("module", [pal, vpl])
def test_rows_that_say_nothing_of_anybody_are_refused(module, changed, told):
    with pytest.raises(UserError, match=told):
        module.terms(parts("one", "two", annotators=tuple(CAMPS)), batch(**changed), rng())


def test_what_is_learned_of_annotators_is_saved_with_the_heads(tmp_path):
    made, fresh = (policy("one", "two", annotators=tuple(CAMPS)) for _ in range(2))
    with torch.no_grad():
        for weight in made.network.parameters():
            weight += torch.randn(weight.shape, generator=rng(), dtype=weight.dtype)
    made.save(tmp_path)
    fresh.load(tmp_path)
    assert_close(fresh.tastes(["bob", ""]), made.tastes(["bob", ""]))
    assert made.tastes([""])[0].abs().sum() == 0
    other = policy("one", "two", annotators=tuple(CAMPS))
    other.load_state_dict(made.state_dict())
    assert_close(other.tastes(["bob"]), made.tastes(["bob"]))
    with pytest.raises(UserError, match="these heads belong to another model"):
        policy("one", "two").load(tmp_path)


def test_the_reward_of_an_annotator_is_the_mixture(monkeypatch):
    made = policy("one", "two", annotators=("ann",))
    with torch.no_grad():
        made.headed.tastes[0, 0] = torch.tensor([math.log(3.0), 0.0])
    monkeypatch.setattr("mmalign.rewards.trained.load", lambda path: made)
    samples = Samples(prompts(2), ["z", "aa"])
    stranger, known = Annotator("here")(samples), Annotator("here", "ann")(samples)
    assert isinstance(known, Scores)
    one, two = known.dimensions["one"], known.dimensions["two"]
    assert_close(known.values, 0.75 * one + 0.25 * two)
    assert_close(stranger.values, RewardModel("here")(samples).values)
    with pytest.raises(UserError, match="knows no annotator 'anna', did you mean 'ann'"):
        Annotator("here", "anna")
