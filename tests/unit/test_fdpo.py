"""FDPO: golden numbers, what is masked, and which tokens a segment is."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.objectives.fdpo import loss, sign, terms
from mmalign.parts import Parts
from mmalign.records import Prompt, Segment
from tests.unit.toy_tokens import policy


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_golden_numbers():
    found = loss(doubles(0.4, 0.4, 0.4), doubles(1, -1, 0), beta=0.5)
    assert_close(found.values, doubles(0.5981388694, 0.7981388694, 0.0), atol=1e-9, rtol=0)


def test_at_the_reference_every_labelled_segment_is_log_two():
    assert_close(loss(doubles(0, 0), doubles(1, -1)).values, doubles(math.log(2), math.log(2)))


def test_another_label_is_the_other_sign_and_no_label_no_gradient():
    ratios = doubles(0.3, -2.0, 5.0).requires_grad_()
    assert_close(loss(ratios, doubles(1, 1, 1)).values, loss(-ratios, doubles(-1, -1, -1)).values)
    loss(ratios, doubles(1, -1, 0)).values.sum().backward()
    assert ratios.grad[0] < 0 < ratios.grad[1]
    assert ratios.grad[2] == 0


def test_a_segment_that_is_bad_in_one_kind_is_bad():
    said = ({"existence": "faithful", "relation": "hallucinated"}, {"existence": "faithful"}, {"one": "unsure"}, {})
    assert [sign(labels, ["faithful"], ["hallucinated"]) for labels in said] == [-1, 1, 0, 0]


BATCH = {
    "prompt": [Prompt("ab"), Prompt("a")],
    "sample": ["abcde", "ga"],
    "segments": [
        [Segment(0, 2, {"k": "accurate"}), Segment(3, 5, {"k": "inaccurate"})],
        [Segment(1, 2, {"k": "unsure"})],
    ],
}


def moved():
    made = policy()
    with torch.no_grad():
        made.network.adapter.weight += 0.5
        made.network.adapter.bias -= 0.2
    return made


@pytest.mark.covers("fdpo", "tokens")
def test_a_segment_is_its_tokens_given_all_before_it():
    made, rng = moved(), torch.Generator()
    found = terms(Parts(made, None, []), BATCH, rng)
    rows = made.encode(BATCH["prompt"], BATCH["sample"], rng)
    with torch.no_grad():
        now = made.log_likelihood(rows, made.draw(rows, rng)).values
        with made.reference():
            then = made.log_likelihood(rows, made.draw(rows, rng)).values
    ratio = now - then
    assert_close(found["logratios"].detach(), torch.stack([ratio[0, :2].sum(), ratio[0, 3:5].sum(), ratio[1, 1]]))
    assert found["signs"].tolist() == [1, -1, 0]
    assert found["logratios"].abs().min() > 1e-4


@pytest.mark.covers("fdpo", "tokens")
def test_training_parts_the_good_from_the_bad():
    made, rng = policy(), torch.Generator()
    optimizer = torch.optim.Adam([p for p in made.network.parameters() if p.requires_grad], lr=0.05)
    parts, losses = Parts(made, None, []), []
    for _ in range(30):
        found = loss(**terms(parts, BATCH, rng))
        optimizer.zero_grad()
        found.values.mean().backward()
        optimizer.step()
        losses.append(found.values.mean().item())
    assert losses[-1] < losses[0] - 0.1
    assert found.metrics["good_logratio"] > 0 > found.metrics["bad_logratio"]


def test_a_segment_behind_the_answer_is_refused():
    batch = {**BATCH, "segments": [[Segment(0, 9, {"k": "accurate"})], []]}
    with pytest.raises(UserError, match="where a segment ends"):
        terms(Parts(policy(), None, []), batch, torch.Generator())
