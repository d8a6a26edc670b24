"""POVID: halves of DPO, log 2 where nothing was learnt; what is misread is an argmax, detached, and the reading goes on."""

import math
from dataclasses import replace

import pytest
import torch

from mmalign.errors import UserError
from mmalign.objectives import dpo, paired, povid
from mmalign.parts import Parts
from mmalign.records import Prompt
from unit import toy_tokens
from unit.toy import gradient, rng

BATCH = {
    "prompt": [Prompt("ab"), Prompt("c")],
    "chosen": ["abc", "ga"],
    "rejected": ["bg", "ed"],
    "degraded": [Prompt("gg"), Prompt("fed")],
}
CLEAN = {**BATCH, "degraded": BATCH["prompt"]}


@pytest.fixture
def parts() -> Parts:
    return Parts(toy_tokens.policy(), None, [])


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def likeliest(policy, prompt: str, answer: str) -> list[int]:
    """What the policy would say next at each place of an answer and of its end, asked place by place."""
    ids = [toy_tokens.LETTERS.index(letter) for letter in prompt + answer]
    with torch.no_grad():
        hidden = policy.network(torch.tensor([ids]))[0, len(prompt) - 1 :]
        return policy.network.head(hidden).argmax(-1).tolist()


def said(rows) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(rows.ids, rows.mask, strict=True)]


def test_the_loss_is_the_mean_of_both_comparisons():
    a, b, n = doubles(1.0, -0.3), doubles(-0.5, 0.2), doubles(0.5, 0.1)
    found = povid.loss(a, b, n, beta=0.1)
    by_hand = [
        (math.log1p(math.exp(-0.1 * (x - y))) + math.log1p(math.exp(-0.1 * (x - z)))) / 2
        for x, y, z in zip(a.tolist(), b.tolist(), n.tolist(), strict=True)
    ]
    assert found.values.tolist() == pytest.approx(by_hand, abs=1e-12)
    assert found.metrics["sees"] == 0.5
    assert povid.loss(a, b, b).values.tolist() == dpo.loss(a, b).values.tolist()


def test_an_untouched_model_has_log_2(parts):
    with torch.no_grad():
        for weight in parts.policy.network.adapter.parameters():
            weight.zero_()
    values = povid.loss(**povid.terms(parts, BATCH, rng())).values
    assert values.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-12)


@pytest.mark.parametrize("batch", [BATCH, CLEAN], ids=["worse", "clean"])
def test_what_is_misread_is_the_argmax_after_the_winners_own_tokens(parts, batch):
    policy = parts.policy
    rows = policy.encode([*BATCH["prompt"]] * 2, [*BATCH["rejected"], *BATCH["chosen"]], rng())
    found = policy.misread(rows, policy.encode(batch["degraded"], batch["chosen"], rng()))
    argmax = [likeliest(policy, p.text, y) for p, y in zip(batch["degraded"], batch["chosen"], strict=True)]
    assert said(found) == [*said(rows)[:2], *argmax]
    assert found.inputs["ids"].equal(rows.inputs["ids"])  # each is still given the winner's tokens


def test_worse_prompts_are_misread(parts):
    clean, worse = (
        [likeliest(parts.policy, p.text, y) for p, y in zip(batch["degraded"], batch["chosen"], strict=True)]
        for batch in (CLEAN, BATCH)
    )
    assert clean != worse


def test_no_gradient_flows_through_what_was_misread(parts):
    """The gradient is that of the same tokens given from outside."""
    policy, found = parts.policy, povid.terms(parts, BATCH, rng())
    rows = policy.encode(BATCH["prompt"], BATCH["chosen"], rng())
    argmax = [likeliest(policy, p.text, y) for p, y in zip(BATCH["degraded"], BATCH["chosen"], strict=True)]
    ids = rows.ids.masked_scatter(rows.mask.bool(), torch.tensor([one for row in argmax for one in row]))
    fixed = replace(rows, ids=ids)
    with torch.no_grad(), policy.reference():
        reference = policy.log_likelihood(fixed, None).sum()
    ratios = policy.log_likelihood(fixed, None).sum() - reference
    torch.testing.assert_close(found["misread_logratios"], ratios)
    ours, theirs = (gradient(parts, one.sum()) for one in (found["misread_logratios"], ratios))
    torch.testing.assert_close(ours, theirs)
    assert ours.norm() > 0


def test_the_pair_is_that_of_dpo(parts):
    found, plain = povid.terms(parts, BATCH, rng()), paired.terms(parts, BATCH, rng())
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value)


def test_a_response_that_is_cut_elsewhere_is_named(parts):
    policy = parts.policy
    rows = policy.encode(BATCH["prompt"], BATCH["chosen"], rng())
    with pytest.raises(UserError, match=r"cut elsewhere after another prompt: raise model\.max_length"):
        policy.misread(rows, policy.encode(BATCH["degraded"], ["ab", "ga"], rng()))
