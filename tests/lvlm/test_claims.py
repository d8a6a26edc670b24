"""Rewards of RLAIF-V and of self-retrieval, with judges and logits that are known."""

import math

import pytest
import torch

from mmalign.errors import UserError
from mmalign.records import Fact, Prompt, Samples, Verdict
from mmalign_lvlm.rewards.claims import RejectedClaims
from mmalign_lvlm.rewards.retrieval import bag, retrieved

FACTS = {
    "A red dog.": [Fact("existence", "dog"), Fact("attribute", "red")],
    "A cat.": [Fact("existence", "cat")],
    "Well.": [],
    "Mumble.": None,
}
SAID = {"dog": "yes", "red": "no", "cat": "no"}


class Judge:
    """Knows every piece, and what is true."""

    def __init__(self, **said: str):
        self.said = SAID | said

    def facts(self, answers):
        return [[FACTS[answer.text[start:end]] for start, end in answer.spans] for answer in answers]

    def verify(self, questions):
        return [Verdict(self.said[fact.text]) for _, fact in questions]


def scored(*texts: str, per_claim: bool = False, **said: str):
    reward = RejectedClaims.__new__(RejectedClaims)
    reward.judge = reward.lister = Judge(**said)
    reward.per_claim = per_claim
    return reward(Samples([Prompt("what")] * len(texts), list(texts)))


def test_rejected_claims_count_against_an_answer():
    found = scored("A red dog.", "A red dog.\nA cat.", "A cat.")
    assert found.values.tolist() == [-1, -2, -1]
    assert found.dimensions["claims"].tolist() == [2, 3, 1]
    assert scored("A red dog.\nA cat.", per_claim=True).values.item() == pytest.approx(-2 / 3)


def test_an_answer_that_claims_nothing_does_not_win():
    assert scored("Well.").values.isnan().all()
    assert scored("A red dog.", red="yes").values.item() == 0


def test_no_verdict_is_neither_yes_nor_no():
    assert scored("A red dog.", red="none").values.isnan().all()
    assert scored("A red dog.\nMumble.").values.isnan().all()
    assert scored("A red dog.", red="moot").dimensions["claims"].item() == 1


def test_golden_numbers_of_self_retrieval():
    logits = 100 * torch.tensor([[0.30, 0.20, 0.25], [0.1, 0.4, 0.2], [0.2, 0.2, 0.3]], dtype=torch.float64)
    found = retrieved(logits, torch.arange(3))
    assert found.tolist() == pytest.approx([-0.00676044, -2.06e-9, -9.08e-5], rel=1e-3)
    same = retrieved(torch.ones(4, 4), torch.arange(4))
    assert same.tolist() == pytest.approx([-math.log(4)] * 4)


def test_samples_of_one_picture_share_it():
    one, other = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    prompts = [Prompt("a", images=[one]), Prompt("a", images=[one]), Prompt("b", images=[other])]
    kept, own = bag(prompts)
    assert [id(prompt.images[0]) for prompt in kept] == [id(one), id(other)]
    assert own.tolist() == [0, 0, 1]
    with pytest.raises(UserError, match="shows 0 pictures"):
        bag([Prompt("c")])
