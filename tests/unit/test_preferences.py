"""Preference losses against the golden numbers and invariants of methods-lvlm 5 and 10, in float64."""

import math
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError, options, plugins
from mmalign.objectives import (
    anchor,
    apo,
    bco,
    cpo,
    discopop,
    dpo,
    exo,
    flow_dpo,
    hinge,
    ipo,
    kto,
    nca,
    orpo,
    paired,
    robust,
    rpo,
    sft,
    simpo,
    sppo,
    weighted_sum,
)
from mmalign.records import LogProbs
from unit.toy import gradient, pairs, parts, prompts, rng
from unit.toy_units import Units

LOG2 = math.log(2)
EXACT = {"atol": 1e-9, "rtol": 0}


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value(module, chosen, rejected, **given) -> float:
    return module.loss(doubles(chosen), doubles(rejected), **given).values.item()


A, B = 1.0, -0.5  # log-ratios of a pair: policy -20 and -24, reference -21 and -23.5
UNITS = (10, 12)

GOLDEN = {
    "dpo": (dpo, {}, 0.6209570478, LOG2),
    "cdpo": (dpo, {"label_smoothing": 0.1}, 0.6359570478, LOG2),
    "robust": (robust, {"flip_rate": 0.1}, 0.6022070478, LOG2),
    "hinge": (hinge, {}, 0.85, 1.0),
    "ipo, sums": (ipo, {}, 12.25, 25.0),
    "exo": (exo, {"label_smoothing": 1e-3}, 2.5055165555, 2.7612307091),
    "nca": (nca, {}, 1.3508248141, 2 * LOG2),
    "bco": (bco, {"shift": False}, 1.3128563081, 2 * LOG2),
    "sppo": (sppo, {}, 36.25, 50.0),
    "apo zero": (apo, {"towards": "zero"}, 0.9625234160, 1.0),
    "apo down": (apo, {"towards": "down"}, 0.9875493421, 1.0),
    "discopop": (discopop, {"temperature": 0.05}, 0.8493375793, 0.8465735903),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers(name):
    module, given, at_pair, at_reference = GOLDEN[name]
    assert value(module, A, B, beta=0.1, **given) == pytest.approx(at_pair, abs=1e-9)
    assert value(module, 0.0, 0.0, beta=0.1, **given) == pytest.approx(at_reference, abs=1e-9)


def test_golden_numbers_of_means_over_units():
    a, b = A / UNITS[0], B / UNITS[1]
    assert value(ipo, a, b, beta=0.1) == pytest.approx(23.6034027778, abs=1e-9)
    assert value(dpo, a, b, beta=0.1) == pytest.approx(0.6860889338, abs=1e-9)


def test_golden_numbers_without_a_reference():
    means = (-20 / UNITS[0], -24 / UNITS[1])
    assert value(simpo, *means, beta=2.0, margin=1.0) == pytest.approx(1.3132616875, abs=1e-9)
    assert value(orpo, *means, weight=0.1) == pytest.approx(2.0693147181, abs=1e-9)
    found = cpo.loss(doubles(-20), doubles(-24), doubles(-2), beta=0.1, alpha=0.0).values
    assert found.item() == pytest.approx(0.5130152524, abs=1e-9)
    assert cpo.loss(doubles(-20), doubles(-24), doubles(-2), beta=0.1, alpha=1.5).values - found == pytest.approx(3.0)


def test_golden_numbers_of_kto():
    found = kto.loss(doubles(0.5, -0.2, 0.3), doubles(0.1, -0.4, 0.6), doubles(1, 1, 0), beta=0.1)
    assert found.metrics["kl"].item() == pytest.approx(0.1)
    assert_close(found.values, doubles(0.4900013331, 0.5074994376, 0.5049998333), **EXACT)


def test_the_terms_of_mdpo_add_up_to_its_golden_number():
    """The conditional term is DPO's of another pair."""
    total = value(dpo, 1.5, 0.0, beta=0.1) + value(dpo, 0.5, 0.0, beta=0.1) + value(anchor, 1.0, 9.0, beta=0.1)
    assert total == pytest.approx(1.9338133559, abs=1e-9)
    assert value(anchor, 1.0, 0.0, beta=0.1, delta=0.1) == pytest.approx(LOG2)


@pytest.mark.parametrize(
    ("x", "expected"), [(-0.01, -4.6101660), (-0.5, -0.9327521), (-2.0, -0.1454135), (-10.0, -4.540096e-5)]
)
def test_log1mexp(x, expected):
    assert orpo.log1mexp(doubles(x)).item() == pytest.approx(expected, rel=1e-5)


def test_log1mexp_keeps_its_digits_at_both_ends_and_its_gradient_everywhere():
    x = doubles(-1e-12, -LOG2, -50.0).requires_grad_()
    found = orpo.log1mexp(x)
    assert_close(found, doubles(math.log(1e-12), math.log(0.5), -math.exp(-50.0)), atol=0, rtol=1e-9)
    found.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(orpo.log1mexp(torch.zeros(1)))


# ---- what holds for every pair

DIFFERENCE = {name: GOLDEN[name][:2] for name in ("dpo", "cdpo", "robust", "hinge", "ipo, sums", "exo", "discopop")}


@pytest.mark.parametrize("name", DIFFERENCE)
def test_losses_of_the_difference_pull_both_sides_alike(name):
    module, given = DIFFERENCE[name]
    a, b = torch.randn(2, 8, generator=rng(), dtype=torch.float64).requires_grad_()
    a.retain_grad()
    b.retain_grad()
    found = module.loss(a, b, beta=0.3, **given).values
    assert_close(module.loss(a + 2, b + 2, beta=0.3, **given).values, found)
    found.sum().backward()
    assert_close(a.grad, -b.grad)


@pytest.mark.parametrize("name", GOLDEN)
def test_gradients_are_those_of_finite_differences(name):
    module, given = GOLDEN[name][:2]
    given = {**given, "shift": False} if module is bco else given
    sides = torch.randn(2, 5, generator=rng(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module.loss(*x, beta=0.7, **given).values, (sides,))


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "discopop"])
def test_at_the_reference_a_step_puts_the_winner_ahead(name):
    module, given = GOLDEN[name][:2]
    sides = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    module.loss(*sides, beta=0.1, **given).values.sum().backward()
    assert sides.grad[0] < sides.grad[1]


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_stay_finite_far_from_the_reference(name):
    module, given = GOLDEN[name][:2]
    sides = torch.tensor([[900.0, -900.0], [-900.0, 900.0]], requires_grad=True)
    found = module.loss(*sides, beta=1.0 if module is not discopop else 0.05, **given).values
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(sides.grad).all()


def test_discopop_is_not_convex_and_rises_at_the_reference():
    """d/dz at 0, by hand: (1/4)(1 - log 2)/τ - 3/4."""
    z = doubles(0.0, 1.0, -1.0).requires_grad_()
    discopop.loss(z, doubles(0, 0, 0), beta=1.0, temperature=0.05).values.sum().backward()
    assert z.grad[0].item() == pytest.approx((1 - LOG2) / 4 / 0.05 - 0.75)
    assert (z.grad[1:] < 0).all()


def test_pairs_that_are_ahead_cost_discopop_nothing_and_do_not_overflow_behind():
    found = discopop.loss(torch.tensor([5000.0, -5000.0]), torch.zeros(2), beta=1.0).values
    assert found.tolist() == [0.0, 5000.0]


def test_smoothed_dpo_is_the_mixture_of_both_labels():
    a, b = torch.randn(2, 6, generator=rng(), dtype=torch.float64)
    both = 0.8 * dpo.loss(a, b).values + 0.2 * dpo.loss(b, a).values
    assert_close(dpo.loss(a, b, label_smoothing=0.2).values, both)


def test_smoothed_dpo_is_lowest_at_the_odds_of_its_labels():
    best = torch.tensor(math.log(0.9 / 0.1) / 0.1, dtype=torch.float64, requires_grad=True)
    dpo.loss(best[None], doubles(0), beta=0.1, label_smoothing=0.1).values.sum().backward()
    assert best.grad.abs() < 1e-12


def test_a_margin_moves_where_dpo_is_indifferent():
    assert value(dpo, 3.0, 1.0, beta=0.5, margin=1.0) == pytest.approx(LOG2)


def test_robust_dpo_is_unbiased_under_flipped_labels():
    a, b = torch.randn(2, 6, generator=rng(), dtype=torch.float64)
    noisy = 0.7 * robust.loss(a, b, flip_rate=0.3).values + 0.3 * robust.loss(b, a, flip_rate=0.3).values
    assert_close(noisy, dpo.loss(a, b).values)


def test_robust_dpo_has_no_floor():
    assert value(robust, 1e5, 0.0, beta=0.1, flip_rate=0.1) == pytest.approx(-0.1 * 1e4 / 0.8)


def test_without_noise_robust_and_smoothed_dpo_are_dpo():
    a, b = torch.randn(2, 6, generator=rng(), dtype=torch.float64)
    for found in (robust.loss(a, b, flip_rate=0.0), dpo.loss(a, b, label_smoothing=0.0)):
        assert_close(found.values, -torch.nn.functional.logsigmoid(0.1 * (a - b)))


def test_exo_is_zero_where_the_policy_agrees_with_the_label():
    assert value(exo, math.log(0.99 / 0.01), 0.0, beta=1.0, label_smoothing=0.01) == pytest.approx(0, abs=1e-15)
    assert (exo.loss(torch.linspace(-9, 9, 50), torch.zeros(50), beta=1.0).values >= 0).all()


def test_ipo_is_zero_at_its_target_and_a_larger_beta_asks_for_less():
    assert value(ipo, 5.0, 0.0, beta=0.1) == 0
    assert value(ipo, 0.5, 0.0, beta=1.0) == 0


def test_hinge_leaves_alone_what_is_far_enough_ahead():
    assert value(hinge, 10.0, 0.0, beta=0.1) == 0
    assert value(hinge, 9.0, 0.0, beta=0.1) == pytest.approx(0.1)


def test_sppo_pulls_each_side_to_its_own_target():
    assert value(sppo, 5.0, -5.0, beta=0.1) == 0


def test_some_losses_hold_the_winner_where_dpo_does_not():
    """Both sides fall alike: DPO does not see it."""
    for module, given in ((nca, {}), (bco, {"shift": False}), (sppo, {}), (anchor, {})):
        assert value(module, -9.0, -9.0, beta=1.0, **given) > value(module, 0.0, 0.0, beta=1.0, **given)
    assert value(dpo, -9.0, -9.0, beta=1.0) == pytest.approx(LOG2)


@pytest.mark.parametrize(("towards", "winner"), [("zero", -1), ("down", 1)])
def test_apo_moves_the_winner_up_or_down_and_the_loser_down(towards, winner):
    """At the reference β a has the gradient -1/4 (zero) or 1/4 - 1/4 = 0 (down): look a little ahead of it."""
    a, b = doubles(1.0).requires_grad_(), doubles(-1.0).requires_grad_()
    apo.loss(a, b, beta=1.0, towards=towards).values.sum().backward()
    assert a.grad.sign() == winner
    assert b.grad > 0


def test_apo_lies_between_its_limits():
    ends = {"zero": (0.0, 2.0), "down": (1.0, 1.0)}
    for towards, (ahead, behind) in ends.items():
        assert value(apo, 1e4, -1e4, beta=1.0, towards=towards) == pytest.approx(ahead)
        assert value(apo, -1e4, 1e4, beta=1.0, towards=towards) == pytest.approx(behind)
    assert value(apo, -1e4, -3e4, beta=1.0, towards="down") == pytest.approx(0)


def test_the_shift_of_bco_is_the_mean_reward_and_carries_no_gradient():
    a, b = doubles(3.0, 5.0).requires_grad_(), doubles(1.0, -1.0)
    found = bco.loss(a, b, beta=0.5).values
    assert_close(found, bco.loss(a - 2, b - 2, beta=0.5, shift=False).values)
    found.sum().backward()
    assert_close(a.grad, -0.5 * (-0.5 * (a.detach() - 2)).sigmoid())


def test_simpo_at_equal_sides_is_the_margin():
    assert value(simpo, -1.0, -1.0, beta=2.0, margin=0.7) == pytest.approx(math.log(1 + math.exp(0.7)))


def test_the_odds_of_a_half_are_even():
    assert orpo.log_odds(doubles(math.log(0.5), math.log(0.75))).tolist() == pytest.approx([0, math.log(3)])


def test_rpo_adds_the_winners_mean_and_nothing_of_the_loser():
    a, b, mean = doubles(1.0), doubles(-0.5), doubles(-2.0)
    assert_close(rpo.loss(a, b, mean, beta=0.1, eta=0.0).values, dpo.loss(a, b).values)
    assert rpo.loss(a, b, mean, beta=0.1, eta=0.5).values.item() == pytest.approx(0.6209570478 + 1.0)


# ---- KTO


def test_kto_at_the_reference_is_half_of_its_weights():
    found = kto.loss(doubles(0, 0), doubles(0, 0), doubles(1, 0), desirable=1.2, undesirable=0.7)
    assert_close(found.values, doubles(0.6, 0.35))


def test_the_reference_point_is_never_negative_and_carries_no_gradient():
    mismatched = doubles(-3, 1).requires_grad_()
    assert kto.loss(doubles(0, 0), mismatched, doubles(1, 0)).metrics["kl"] == 0
    assert not kto.loss(doubles(0, 0), mismatched + 5, doubles(1, 0)).values.requires_grad


def test_kto_lifts_good_rows_and_lowers_bad_ones():
    d = doubles(0.3, 0.3).requires_grad_()
    kto.loss(d, doubles(0, 0), doubles(1, 0)).values.sum().backward()
    assert d.grad[0] < 0 < d.grad[1]


def test_flipping_all_labels_mirrors_kto():
    d, none = doubles(0.4, -0.9), doubles(0, 0)
    one, other = kto.loss(d, none, doubles(1, 0)).values, kto.loss(d, none, doubles(0, 1)).values
    assert_close(one, 1 - other)


def labelled(n: int) -> dict[str, list]:
    return {"prompt": prompts(n), "sample": pairs(n)["chosen"], "label": [True, 0, 1.0, False][:n]}


def test_mismatched_pairs_are_the_samples_shifted_by_one():
    made, seen = parts(), []
    encode = made.policy.encode
    made.policy.encode = lambda p, media, r: seen.append((p, list(media))) or encode(p, media, r)
    batch = labelled(4)
    found = kto.terms(made, batch, rng())
    (own_prompts, own), (prompts_, shifted) = seen
    assert own_prompts == prompts_ == batch["prompt"]
    assert all(x is y for x, y in zip(shifted, [own[3], *own[:3]], strict=True))
    assert found["good"].tolist() == [1, 0, 1, 0]
    assert not found["mismatched_logratios"].requires_grad
    assert found["logratios"].requires_grad


def test_kto_refuses_a_batch_of_one():
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        kto.terms(parts(), labelled(1), rng())


# ---- where the arguments come from


PAIR = {"prompt": [None], "chosen": [None], "rejected": [None]}


def two_lengths(**given):
    """A winner of 4 units that the last column pads, and a loser of 2."""
    policy = doubles(*[-1.0] * 4, *[-2.0] * 2, 7.0, 7.0).view(2, 4)
    reference = doubles(*[-1.1] * 4, *[-1.9] * 2, -7.0, -7.0).view(2, 4)
    mask = doubles(1, 1, 1, 1, 1, 1, 0, 0).view(2, 4)
    return SimpleNamespace(policy=Units(policy, reference, mask, **given))


def test_log_ratios_are_sums_or_means_of_the_units_that_count():
    summed = paired.terms(two_lengths(), PAIR, rng())
    assert_close(summed, {"chosen_logratios": doubles(0.4), "rejected_logratios": doubles(-0.2)})
    averaged = paired.terms(two_lengths(), PAIR, rng(), units="mean")
    assert_close(averaged, {"chosen_logratios": doubles(0.1), "rejected_logratios": doubles(-0.1)})
    assert_close(ipo.terms(two_lengths(), PAIR, rng()), averaged)


def test_the_supervised_term_is_the_winners_mean():
    assert paired.supervised_terms(two_lengths(), PAIR, rng())["log_probs"].tolist() == [-1.0]
    assert cpo.terms(two_lengths(), PAIR, rng())["log_probs"].tolist() == [-1.0]


def test_without_a_reference_sums_and_means_are_of_the_policy_alone():
    made = two_lengths()
    made.policy.reference = None
    assert [x.item() for x in simpo.objective.terms(made, PAIR, rng()).values()] == [-1.0, -2.0]
    assert [x.item() for x in cpo.terms(made, PAIR, rng()).values()] == [-4.0, -4.0, -1.0]


def test_a_sample_without_units_is_zero():
    assert LogProbs(doubles(-1, -2)[None], doubles(0, 0)[None]).mean().tolist() == [0]
    assert LogProbs(doubles(-1, -2)[None], torch.tensor([[True, False]])).mean().tolist() == [-1]


def test_units_in_which_the_sides_differ_count_more():
    """methods-lvlm 3.4: sums -6.5 and -26.5, means -1.625 and -2.208333."""
    log_probs = LogProbs(doubles(-1, -2, -3, -0.5)[None], torch.ones(1, 4, dtype=torch.float64))
    made = SimpleNamespace(offers={"changed-units"}, changed=lambda rows: doubles(0, 1, 1, 0)[None])
    from mmalign.objectives.sides import dense

    assert [dense(log_probs, made, None, gamma).sum().item() for gamma in (1, 5)] == [-6.5, -26.5]
    assert dense(log_probs, made, None, 1).mean().item() == -1.625
    assert dense(log_probs, made, None, 5).mean().item() == pytest.approx(-2.208333, abs=1e-6)


def test_a_model_that_cannot_tell_what_changed_is_refused():
    with pytest.raises(UserError, match=r"objective\.dense"):
        paired.terms(parts(), pairs(2), rng(), dense=5.0)


# ---- sums


def test_mpo_is_the_sum_of_its_parts():
    a, b, mean = doubles(1.0), doubles(-0.5), doubles(-2.0)
    losses = {"dpo": {"weight": 0.8}, "bco": {"weight": 0.2, "beta": 0.1, "shift": False}, "sft": {"weight": 1}}
    found = weighted_sum.loss(a, b, mean, losses=losses)
    assert found.values.item() == pytest.approx(0.8 * 0.6209570478 + 0.2 * 1.3128563081 + 2.0)
    assert found.metrics["sft"] == 2.0
    assert_close(weighted_sum.loss(a, b, mean, losses={"dpo": {"weight": 1}}).values, dpo.loss(a, b).values)


def test_every_loss_of_a_sum_takes_what_a_sum_has():
    for name, function in weighted_sum.LOSSES.items():
        given = signature(weighted_sum.loss).parameters
        needed = {p.name for p in signature(function).parameters.values() if p.default is p.empty}
        assert needed <= set(given), name


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ({"dop": {"weight": 1}}, "unknown loss 'dop', did you mean 'dpo'?"),
        ({"dpo": {}}, r"dpo\.weight: missing"),
        ({"dpo": {"weight": 1, "bata": 2}}, r"dpo\.bata: unknown key, did you mean 'beta'"),
        ({"dpo": {"weight": 1, "beta": -1}}, r"dpo\.beta: must be above 0"),
        ({}, "at least 1 long"),
    ],
)
def test_a_sum_of_what_is_not_there_is_refused(losses, says):
    spec = plugins.load(installed=False).catalogue.find("objective", "weighted-sum").spec
    with pytest.raises(UserError, match=says):
        options.bind_objective(spec, {"losses": losses})


# ---- on a model

OTHERS = ["hinge", "ipo", "robust", "exo", "discopop", "nca", "bco", "sppo", "apo", "anchor", "rpo", "simpo", "cpo"]
ON_PAIRS = ["dpo", "diffusion-dpo", "flow-dpo", *OTHERS]


def bound(name: str, **given):
    return options.bind_objective(plugins.load(installed=False).catalogue.find("objective", name).spec, given)


@pytest.mark.parametrize("name", ON_PAIRS)
def test_every_objective_on_pairs_trains_the_toy(name):
    """One small step along the gradient puts the winners further ahead, seen with the same draws."""
    made, batch, objective = parts(), pairs(6), bound(name)
    gap = "log_probs" if name in ("simpo", "cpo") else "logratios"

    def ahead():
        terms = objective.terms(made, batch, rng(4))
        found = objective.loss(**terms)
        assert found.values.shape == (6,)
        assert not any(metric.requires_grad for metric in found.metrics.values())
        return terms[f"chosen_{gap}"] - terms[f"rejected_{gap}"], found.values.mean()

    before, loss = ahead()
    weights = torch.nn.utils.parameters_to_vector(made.policy.network.adapter.parameters())
    step = gradient(made, loss)
    assert step.norm() > 0
    moved = weights.detach() - 1e-4 * step / step.norm()
    torch.nn.utils.vector_to_parameters(moved, made.policy.network.adapter.parameters())
    after, lower = ahead()
    assert lower < loss
    if name not in ("anchor", "rpo", "cpo", "discopop"):  # the winner's own likelihood may weigh more; not monotone
        assert (after - before).mean() > 0


def test_kto_trains_the_toy():
    made, batch, objective = parts(), labelled(4), bound("kto", beta=100.0)
    weights = made.policy.network.adapter.parameters()
    loss = objective.loss(**objective.terms(made, batch, rng())).values.mean()
    step = gradient(made, loss)
    moved = torch.nn.utils.parameters_to_vector(weights).detach() - 1e-4 * step / step.norm()
    torch.nn.utils.vector_to_parameters(moved, made.policy.network.adapter.parameters())
    assert objective.loss(**objective.terms(made, batch, rng())).values.mean() < loss


def test_equal_sides_leave_no_gradient_in_losses_of_the_difference():
    batch = pairs(3)
    for name in ("hinge", "ipo", "robust", "exo", "discopop", "simpo"):
        made, objective = parts(), bound(name)
        found = objective.loss(**objective.terms(made, {**batch, "rejected": batch["chosen"]}, rng()))
        assert_close(gradient(made, found.values.mean()), torch.zeros(10, dtype=torch.float64), atol=1e-12, rtol=0)


def test_flow_dpo_is_dpo_with_the_papers_beta():
    a, b = torch.randn(2, 4, generator=rng(), dtype=torch.float64) / 100
    assert_close(flow_dpo.loss(a, b).values, dpo.loss(a, b, beta=500.0).values)


def test_a_surrogate_has_no_odds():
    catalogue = plugins.load(installed=False).catalogue
    assert not catalogue.find("objective", "orpo").spec.needs <= parts().policy.offers
    for name in [*ON_PAIRS, "kto", "weighted-sum"]:
        assert catalogue.find("objective", name).spec.needs <= parts().policy.offers


def test_sft_of_a_sum_is_the_winners():
    assert sft.loss(doubles(-2.0)).values.tolist() == [2.0]
