"""mDPO: its golden number, that it is log 2 three times where nothing was learnt, and what gradient the picture gets."""

import math

import pytest
import torch

from mmalign.objectives import mdpo
from mmalign.parts import Parts
from mmalign.records import Prompt
from unit import toy_tokens
from unit.toy import gradient, rng

BATCH = {
    "prompt": [Prompt("ab"), Prompt("c")],
    "chosen": ["abc", "ga"],
    "rejected": ["bg", "ed"],
    "degraded": [Prompt("g"), Prompt("fe")],
}


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_golden_number():
    found = mdpo.loss(doubles(1.0), doubles(-0.5), doubles(0.5))
    assert found.values.item() == pytest.approx(1.9338133559, abs=1e-9)
    assert found.metrics["sees"] == 1


def test_an_untouched_model_has_log_2_three_times():
    made = Parts(toy_tokens.policy(), None, [])
    with torch.no_grad():
        for weight in made.policy.network.adapter.parameters():
            weight.zero_()
    values = mdpo.loss(**mdpo.terms(made, BATCH, rng())).values
    assert values.tolist() == pytest.approx([3 * math.log(2)] * 2)


def test_a_prompt_that_is_not_worse_teaches_nothing_by_its_term():
    c = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    a = doubles(0.7).requires_grad_()
    same = -torch.nn.functional.logsigmoid(0.1 * (a - a))
    (slope,) = torch.autograd.grad(same.sum(), a)
    assert slope.item() == 0
    (worse,) = torch.autograd.grad(mdpo.loss(a, doubles(0.0), c).values.sum(), c)
    assert worse.item() > 0  # descent makes the winner less likely where less is seen


def test_terms_are_those_of_each_prompt_and_answer():
    made = Parts(toy_tokens.policy(), None, [])
    found = mdpo.terms(made, BATCH, rng())
    for name, prompts, answers in (
        ("chosen_logratios", "prompt", "chosen"),
        ("rejected_logratios", "prompt", "rejected"),
        ("degraded_logratios", "degraded", "chosen"),
    ):
        rows = made.policy.encode(BATCH[prompts], BATCH[answers], rng())
        policy = made.policy.log_likelihood(rows, made.policy.draw(rows, rng())).sum()
        with made.policy.reference():
            reference = made.policy.log_likelihood(rows, made.policy.draw(rows, rng())).sum()
        torch.testing.assert_close(found[name], policy - reference)
    assert gradient(made, mdpo.loss(**found).values.mean()).norm() > 0
