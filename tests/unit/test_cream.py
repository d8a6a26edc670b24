"""Self-rewarding: a model's own reward, how consistent two rankings are, and a loss that trusts labels as far as that."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError
from mmalign.config import Collect, Config
from mmalign.config import checked as checked_config
from mmalign.data.collect import collect
from mmalign.document import read_source
from mmalign.maths.agreement import kendall
from mmalign.objectives import cream, dpo
from mmalign.parts import Parts
from mmalign.records import Prompt, Samples
from mmalign.rewards import implicit
from mmalign.rewards.implicit import Implicit
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit import toy, toy_tokens
from unit.test_collect import run_in

RATIO = st.floats(-20, 20)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- formulas


def test_golden_number_of_consistency():
    found = kendall(doubles(5, 4, 3, 2, 1), doubles(5, 3, 4, 2, 1)).item()
    assert found == pytest.approx(0.8)
    assert (found + 1) / 2 == pytest.approx(0.9)


@given(st.lists(st.integers(-3, 3), min_size=0, max_size=6))
def test_rankings_agree_with_themselves_and_are_the_reverse_of_their_negative(values):
    scores, ties = doubles(*values), len(set(values)) < len(values)
    found = kendall(scores, scores).item()
    assert found == pytest.approx(-kendall(scores, -scores).item())
    assert found == pytest.approx(kendall(scores, 2 * scores + 1).item())
    assert (found == pytest.approx(1)) == (not ties and len(values) > 1)
    assert kendall(scores, torch.zeros_like(scores)).item() == 0


def loss(a, b, c, beta=0.1):
    return cream.loss(doubles(a), doubles(b), doubles(c), beta=beta).values.item()


@given(RATIO, RATIO, st.floats(0, 1))
def test_trust_is_between_dpo_and_its_reverse(a, b, c):
    forward, backward = (
        dpo.loss(doubles(*pair[:1]), doubles(*pair[1:]), beta=0.1).values.item() for pair in ((a, b), (b, a))
    )
    assert loss(a, b, 1.0) == pytest.approx(forward)
    assert loss(a, b, 0.0) == pytest.approx(backward)
    assert loss(a, b, c) == pytest.approx(c * forward + (1 - c) * backward)
    assert loss(a, b, c) == pytest.approx(loss(b, a, 1 - c))


def test_a_label_worth_nothing_moves_nothing_at_the_reference():
    a = doubles(0.0).requires_grad_()
    found = cream.loss(a, doubles(0.0), doubles(0.5))
    assert found.values.item() == pytest.approx(math.log(2))
    found.values.sum().backward()
    assert a.grad.item() == 0
    assert found.metrics["consistency"] == 0.5


# ---- the model's own reward


def own_reward(monkeypatch, model, reference, **options) -> Implicit:
    made = {"model": model, "reference": reference}
    monkeypatch.setattr(implicit, "policy_of", lambda key, given: made[key])
    return Implicit({}, {}, **options)


SAID = Samples([Prompt("ab"), Prompt("c"), Prompt("ab")], ["abg", "", "gg"])


def test_words_are_worth_what_training_made_them_likelier(monkeypatch):
    model, reference = toy_tokens.policy(), toy_tokens.policy()
    reference.network.on = False
    reward = own_reward(monkeypatch, model, reference)
    found = reward(SAID)
    rows = model.encode(SAID.prompts, SAID.responses, toy.rng())
    with model.reference():
        untouched = model.log_likelihood(rows, None).sum()
    assert_close(found, model.log_likelihood(rows, None).sum().detach() - untouched.detach())
    assert_close(reward(SAID[1:2]), found[1:2])
    assert reward(Samples([], [])).shape == (0,)
    assert_close(own_reward(monkeypatch, model, model)(SAID), torch.zeros(3).double())


def test_pictures_are_compared_at_draws_that_they_share(monkeypatch):
    model, reference = (toy.parts("flow").policy for _ in range(2))
    reference.network.on = False
    pixels = torch.rand(2, 3, 3, 3, dtype=torch.float64, generator=toy.rng())
    reward = own_reward(monkeypatch, model, reference, draws=3)
    found = reward(Samples(toy.prompts(2), pixels))
    turned = reward(Samples(toy.prompts(2)[::-1], pixels.flip(0)))
    assert_close(found, turned.flip(0))
    assert found.abs().min() > 0
    assert not found.requires_grad


def test_what_makes_no_samples_likes_none():
    with pytest.raises(UserError, match="missing `type`"):
        Implicit({"path": "here"}, {})
    with pytest.raises(UserError, match="unknown model 'nobody'"):
        Implicit({"type": "nobody"}, {})


# ---- rows


def length(samples):
    return torch.tensor([float(len(text)) for text in samples.responses])


def test_pairs_know_how_consistent_their_prompts_ranking_was(tmp_path):
    run, options = run_in(tmp_path), Collect(samples_per_prompt=4, consistency="length")
    (worth,) = run.parts.reward.rewards
    run.parts.reward = WeightedReward([worth, CheckedReward("length", length)], [1.0, 0.0])
    policy, pairs = run.parts.policy, collect(run, options, run.parts.data)
    drawn = policy.sample([Prompt("ab")] * 4 + [Prompt("c")] * 4, range(8))
    scores = run.parts.reward(drawn)
    for i in range(2):
        own = slice(4 * i, 4 * i + 4)
        tau = kendall(scores.values[own], scores.dimensions["length"][own]).item()
        assert pairs[i]["consistency"] == pytest.approx((tau + 1) / 2)
    batch = {name: [pairs[i][name] for i in range(2)] for name in ("prompt", "chosen", "rejected", "consistency")}
    found = cream.terms(Parts(policy, None, []), batch, toy.rng())
    assert found["consistency"].tolist() == batch["consistency"]
    (tmp_path / "plain").mkdir()
    run = run_in(tmp_path / "plain")
    assert "consistency" not in collect(run, Collect(samples_per_prompt=4), run.parts.data)[0]


CONFIG = """
name: x
model: m
data: d
objective: cream
rewards: [{{type: a, name: now}}, {{type: b, name: before, weight: 0}}]
collect: {{{collect}}}
trainer: {{steps: 1}}
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("consistency: befor", "no reward is called 'befor', did you mean 'before'"),
        ("consistency: now, keep: all", "goes with"),
    ],
)
def test_a_ranking_that_is_not_there_is_named(tmp_path, given, told):
    (tmp_path / "x.yaml").write_text(CONFIG.format(collect=given))
    with pytest.raises(UserError, match=f"collect.consistency: {told}"):
        checked_config(read_source(tmp_path / "x.yaml", ()))
    (tmp_path / "x.yaml").write_text(CONFIG.format(collect="consistency: before"))
    config: Config = checked_config(read_source(tmp_path / "x.yaml", ())).config
    assert config.collect is not None
    assert config.collect.columns == {"prompt", "chosen", "rejected", "consistency"}
