"""What single units count: changes, exact divergences, and the preference objectives that weigh units, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError, options, plugins
from mmalign.maths import log_probs
from mmalign.maths.changes import changed
from mmalign.maths.log_probs import token_divergence, token_log_probs
from mmalign.objectives import contrast, dpo, ld_dpo, paired, rlhf_v, sides, t_reg, tdpo, tis_dpo
from mmalign.parts import Parts
from mmalign.records import LogProbs, Prompt
from unit import toy, toy_tokens
from unit.toy import rng

LOG2 = math.log(2)
BATCH = {"prompt": [Prompt("ab"), Prompt("c")], "chosen": ["abcdefg", "ga"], "rejected": ["abceefg", "bcde"]}
TEMPLATES = {"better": "{prompt}a", "worse": "{prompt}g"}
ON_UNITS = {"rlhf-v": {}, "tdpo": {}, "tis-dpo": TEMPLATES, "t-reg": TEMPLATES}


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens() -> Parts:
    return Parts(toy_tokens.policy(), None, [])


def bound(name: str, **given):
    return options.bind_objective(plugins.load(installed=False).catalogue.find("objective", name).spec, given)


def untouched(made: Parts) -> Parts:
    """The same with an adapter that changes nothing."""
    for weight in made.policy.network.adapter.parameters():
        weight.data.zero_()
    return made


def slope(made: Parts, value: torch.Tensor) -> torch.Tensor:
    return toy.gradient(made, value)


# ---- which units were replaced


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("abcXdef", "abcYZdef", ("0001000", "00011000")),
        ("abcdef", "abcXdef", ("000000", "0000000")),  # an insertion replaces nothing
        ("abcdefX", "abcdefYY", ("0000001", "00000011")),
        ("XabY", "ZabW", ("1111", "1111")),  # two units that agree are too few
        ("XabcY", "ZabcW", ("10001", "10001")),
        ("abc", "abc", ("000", "000")),
        ("", "abc", ("", "000")),
        ("ab", "ba", ("11", "11")),
    ],
)
def test_changes(one, other, expected):
    flags = changed(list(map(ord, one)), list(map(ord, other)))
    assert tuple("".join("01"[flag] for flag in side) for side in flags) == expected


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_without_changes_nothing_is_flagged_and_with_them_both_sides_are(one, other):
    mine, theirs = changed(one, other)
    assert (len(mine), len(theirs)) == (len(one), len(other))
    assert any(mine) == any(theirs)
    assert not any(changed([*one, 0, 0, 0], [*one, 0, 0, 0])[0])


def test_a_long_repetitive_answer_is_compared_as_carefully_as_a_short_one():
    one, other = [7] * 150 + [1] + [7] * 150, [7] * 150 + [2] + [7] * 150
    assert [i for i, flag in enumerate(changed(one, other)[0]) if flag] == [150]


def test_a_language_model_tells_the_changed_tokens_of_a_pair():
    """abcdefg$ and abceefg$ differ in one letter; ga$ and bcde$ in all, their end included."""
    made = tokens().policy
    rows = made.encode(BATCH["prompt"] * 2, [*BATCH["chosen"], *BATCH["rejected"]], rng())
    found = made.changed(rows)
    assert found.tolist() == [
        [0, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
    ]
    assert found.shape == made.log_likelihood(rows, made.draw(rows, rng())).values.shape


# ---- divergence


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_pieces_of_the_divergence_equal_the_whole_in_value_and_gradient(chunk):
    torch.manual_seed(0)
    hidden, reference = torch.randn(2, 7, 5, dtype=torch.float64)
    hidden.requires_grad_()
    weight, frozen = (
        torch.randn(11, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(11, 5, dtype=torch.float64),
    )
    p, r = (hidden @ weight.T).softmax(-1), (reference @ frozen.T).softmax(-1)
    whole = (r * (r / p).log()).sum(-1)
    pieces = token_divergence(hidden, reference, lambda h: h @ weight.T, lambda h: h @ frozen.T, chunk)
    assert_close(pieces, whole, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(x.square().sum(), (hidden, weight)) for x in (pieces, whole)), strict=True
    ):
        assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_the_divergence_of_tokens_is_that_of_one_softmax_over_everything(monkeypatch):
    made = tokens().policy
    rows = made.encode(BATCH["prompt"], BATCH["chosen"], rng())
    monkeypatch.setattr(token_divergence, "__defaults__", (4,))
    monkeypatch.setattr(token_log_probs, "__defaults__", (1.0, 4))
    found = made.compared(rows, made.draw(rows, rng())).divergence
    assert made.model.largest == 4
    assert found.mask.equal(made.log_likelihood(rows, made.draw(rows, rng())).mask)
    with torch.no_grad(), made.reference():
        r = made.network.head(made.network(rows.ids)).softmax(-1)
    p = made.network.head(made.network(rows.ids)).softmax(-1)
    whole = (r * (r / p).log()).sum(-1)[:, :-1]
    for i in range(2):
        own = whole[i, rows.mask[i, 1:].bool()]
        assert_close(found.values[i, : len(own)], own, rtol=0, atol=1e-12)
    ours, theirs = (slope(Parts(made, None, []), x) for x in (found.sum().sum(), (whole * rows.mask[:, 1:]).sum()))
    assert_close(ours, theirs)


def test_the_divergence_of_denoising_is_the_kl_of_its_surrogates():
    """Surrogates are Gaussians about the outputs, their log-density averaged over dimensions: over targets, E log r/p."""
    made, batch = toy.parts().policy, toy.pairs(2)
    rows = made.encode(batch["prompt"], batch["chosen"], rng())
    draw = made.draw(rows, rng())
    found = made.compared(rows, draw).divergence
    with torch.no_grad():
        p = made._predict(rows, draw)
        with made.reference():
            r = made._predict(rows, draw)
    z = torch.randn(r.shape, generator=rng(), dtype=torch.float64)
    log_ratios = [(((r + s * z - p) ** 2 - z**2) / 2).mean(dim=(1, 2, 3)) for s in (1, -1)]  # what is odd in z cancels
    assert_close(found.sum().detach(), (log_ratios[0] + log_ratios[1]) / 2)
    assert found.values.shape == found.mask.shape == (2, 1)


@pytest.mark.parametrize("made", [tokens(), toy.parts()], ids=["tokens", "denoising"])
def test_a_divergence_is_zero_at_the_reference_alone(made):
    batch = BATCH if made.policy.offers >= {"exact-likelihood"} else toy.pairs(2)
    rows = made.policy.encode(batch["prompt"], batch["chosen"], rng())
    draw = made.policy.draw(rows, rng())
    found = made.policy.compared(rows, draw).divergence
    assert (found.values[found.mask > 0] > 0).all()
    untouched(made)
    now = made.policy.compared(rows, draw).divergence.values
    assert_close(now, torch.zeros_like(now), rtol=0, atol=1e-15)


@pytest.mark.parametrize("made", [tokens(), toy.parts()], ids=["tokens", "denoising"])
def test_one_forward_of_each_model_tells_likelihoods_and_divergence(made):
    batch = BATCH if made.policy.offers >= {"exact-likelihood"} else toy.pairs(2)
    rows = made.policy.encode(batch["prompt"], batch["chosen"], rng())
    draw, forwards = made.policy.draw(rows, rng()), []
    counting = made.policy.network.register_forward_hook(lambda network, *_: forwards.append(network.on))
    found = made.policy.compared(rows, draw)
    counting.remove()
    assert forwards == [False, True]
    ours, reference = sides.both(made.policy, rows, draw)
    assert found.log_probs.values.equal(ours.values)
    assert found.reference_log_probs.values.equal(reference.values)
    assert found.log_probs.mask.equal(ours.mask)
    assert found.divergence.mask.equal(ours.mask)
    given = (found.log_probs, found.reference_log_probs, found.divergence)
    assert [one.values.requires_grad for one in given] == [True, False, True]


# ---- TDPO


def test_golden_numbers_of_tdpo():
    given = doubles(1.5), doubles(0.0), doubles(0.4), doubles(0.9)
    assert tdpo.loss(*given, version=1).values.item() == pytest.approx(0.6443966601, abs=1e-9)
    assert tdpo.loss(*given).values.item() == pytest.approx(0.6325990353, abs=1e-9)
    assert_close(tdpo.loss(*given, alpha=0).values, dpo.loss(*given[:2]).values)
    assert tdpo.loss(*given).metrics["chosen_logratio"] == 1.5


@pytest.mark.parametrize(("version", "winner"), [(1, -1), (2, 0)])
def test_only_tdpo_1_pulls_the_winner_by_its_divergence(version, winner):
    kl = doubles(0.4).requires_grad_(), doubles(0.9).requires_grad_()
    tdpo.loss(doubles(1.5), doubles(0.0), *kl, version=version).values.sum().backward()
    assert kl[1].grad > 0
    assert (kl[0].grad is not None and kl[0].grad.sign()) == (winner if winner else False)


# ---- LD-DPO


def test_golden_number_of_ld_dpo():
    """Four tokens against two, in rows of four places."""
    ratios = LogProbs(
        doubles(0.1, 0.1, 0.1, 0.1, -0.1, -0.1, 9, 9).view(2, 4), doubles(1, 1, 1, 1, 1, 1, 0, 0).view(2, 4)
    )
    found = ld_dpo.shortened(ratios, 0.5).sum()
    assert_close(found, doubles(0.3, -0.2))
    assert dpo.loss(*found.chunk(2)).values.item() == pytest.approx(0.6684596480, abs=1e-9)
    assert_close(ld_dpo.shortened(ratios, 1.0).sum(), ratios.sum())
    assert_close(ld_dpo.shortened(ratios, 0.0).sum(), doubles(0.2, -0.2))


def test_ld_dpo_weighs_either_side_that_is_longer():
    made = tokens()
    turned = {**BATCH, "chosen": BATCH["rejected"], "rejected": BATCH["chosen"]}
    one, other = ld_dpo.terms(made, BATCH, rng()), ld_dpo.terms(made, turned, rng())
    assert_close(one["chosen_logratios"], other["rejected_logratios"])
    plain = paired.terms(made, BATCH, rng())
    assert_close(one["chosen_logratios"], plain["chosen_logratios"])  # never the longer one here
    assert not one["rejected_logratios"][1].isclose(plain["rejected_logratios"][1])


# ---- TIS-DPO


def test_golden_number_of_tis():
    log_ratios = LogProbs(doubles(0.2, -0.1, -0.3, 0.05).view(2, 2), torch.ones(2, 2, dtype=torch.float64))
    weighted = log_ratios.weighted(doubles(1.5, 0.8, 0.7, 1.1).view(2, 2)).sum()
    assert dpo.loss(*weighted.chunk(2)).values.item() == pytest.approx(0.6745729515, abs=1e-9)


def test_the_weights_of_tis_are_bounded_and_turned_round_for_losers():
    c = torch.linspace(-9, 9, 30, dtype=torch.float64).expand(2, -1)
    winners, losers = tis_dpo.weights(c, 1.0, -0.5, 1.5)
    assert_close(winners[[0, -1]], doubles(-0.5, 1.5).exp())
    assert_close(losers[[0, -1]], doubles(0.5, -1.5).exp())
    assert_close(winners * losers, torch.ones_like(winners))
    assert_close(tis_dpo.weights(c, 3.0, -0.5, 1.5), 3 * torch.stack([winners, losers]))


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(UserError, match=r"'tis-dpo': lowest: 2 is above `highest`, 1\.5, .* exchange them"):
        bound("tis-dpo", lowest=2)
    bound("tis-dpo", lowest=1.5)


@pytest.mark.parametrize("name", ["tis-dpo", "t-reg"])
def test_where_both_prompts_are_the_same_this_is_dpo(name):
    made = tokens()
    objective = bound(name, better="{prompt}a", worse="{prompt}a")
    found = objective.loss(**objective.terms(made, BATCH, rng())).values
    assert_close(found, dpo.loss(**paired.terms(made, BATCH, rng())).values)


# ---- T-REG


def test_golden_number_of_t_reg():
    c = doubles(-1, -2, -0.5) - doubles(-1.5, -1, -0.5)
    assert_close(c.sigmoid() - 0.5, doubles(0.12245933, -0.23105858, 0), rtol=0, atol=1e-8)
    own = t_reg.credit(LogProbs(doubles(-0.9, -1.2, -0.4)[None], torch.ones(1, 3)), c[None])
    assert -0.1 * own.item() == pytest.approx(-0.0167056896, abs=1e-9)
    assert_close(t_reg.credit(LogProbs(doubles(-0.9, -1.2, -0.4)[None], torch.ones(1, 3)), -c[None]), -own)
    found = t_reg.loss(doubles(1.0), doubles(-0.5), own, beta=0.1, alpha=0.5)
    weight = 1 / (1 + math.exp(0.15))
    assert found.values.item() == pytest.approx(0.6209570478 - 0.5 * weight * 0.0167056896, abs=1e-9)


def test_t_reg_can_raise_good_tokens_of_the_loser_and_leaves_ordered_pairs_alone():
    values = doubles(-1.0, -2.0)[None].requires_grad_()
    own = t_reg.credit(LogProbs(values, torch.ones(1, 2)), doubles(2.0, -2.0)[None])
    t_reg.loss(doubles(0), doubles(0), own).values.sum().backward()
    assert values.grad[0, 0] < 0 < values.grad[0, 1]
    ahead = t_reg.loss(doubles(1e4), doubles(-1e4), own.detach()).metrics["regularisation"]
    assert ahead.abs() < 1e-12


# ---- what the reference says of units


def test_the_contrast_is_the_references_log_ratio_of_two_prompts():
    made = tokens()
    policy, reference, c = contrast.terms(made, BATCH, rng(), **TEMPLATES)
    assert policy.values.requires_grad
    assert not c.requires_grad
    asked = [[Prompt(prompt.text + end) for prompt in BATCH["prompt"]] * 2 for end in "ag"]
    said = [*BATCH["chosen"], *BATCH["rejected"]]
    with torch.no_grad(), made.policy.reference():
        rows = [made.policy.encode(prompts, said, rng()) for prompts in asked]
        likely, unlikely = (made.policy.log_likelihood(one, None).values for one in rows)
    assert_close(c, likely - unlikely)
    assert (c[0, :8] != 0).all()
    assert (c * (1 - reference.mask) == 0).all()


def test_tokens_that_a_longer_prompt_cuts_off_are_worth_nothing():
    made = tokens()
    encode = made.policy.model.encode

    def short(prompts, responses):
        return encode(prompts, [ids[: 9 - len(p.text)] for p, ids in zip(prompts, responses, strict=True)])

    made.policy.model.encode = short
    _, reference, c = contrast.terms(made, BATCH, rng(), "{prompt}a", "{prompt}gg")
    assert c.shape == reference.values.shape == (4, 7)
    assert (c[0, :5] != 0).all()
    assert (c[0, 5:] == 0).all()


def test_a_question_that_leaves_the_prompt_out_is_refused():
    with pytest.raises(UserError, match="better"):
        bound("tis-dpo", better="be good")


# ---- RLHF-V and all of them on a model


def test_dense_dpo_without_weights_is_dpo_of_means_or_sums():
    made = tokens()
    for units in ("mean", "sum"):
        plain = paired.terms(made, BATCH, rng(), units=units)
        assert_close(rlhf_v.terms(made, BATCH, rng(), dense=1.0, units=units), plain)


def test_dense_dpo_weighs_what_was_corrected_by_the_papers_formula():
    made = tokens()
    found = rlhf_v.terms(made, BATCH, rng())["chosen_logratios"][0]
    rows = made.policy.encode(BATCH["prompt"], BATCH["chosen"], rng())
    values = made.policy.log_likelihood(rows, None).values[0]
    with torch.no_grad(), made.policy.reference():
        values = values - made.policy.log_likelihood(rows, None).values[0]
    assert_close(found, (values.sum() + 4 * values[3]) / (7 + 5))


@pytest.mark.parametrize("name", ON_UNITS)
def test_equal_answers_cost_log_2_and_at_the_reference_all_do(name):
    made, objective = tokens(), bound(name, **ON_UNITS[name])
    same = objective.loss(**objective.terms(made, {**BATCH, "rejected": BATCH["chosen"]}, rng()))
    if name in ("rlhf-v", "tdpo"):  # the others hold on to single units whatever the pair says
        assert_close(same.values, torch.full((2,), LOG2, dtype=torch.float64))
    found = objective.loss(**objective.terms(untouched(made), BATCH, rng()))
    if name != "t-reg":  # its supervised term is there from the start
        assert_close(found.values, torch.full((2,), LOG2, dtype=torch.float64))


def test_pieces_are_of_256_tokens():
    assert token_divergence.__defaults__ == (log_probs.CHUNK,) == (256,)
