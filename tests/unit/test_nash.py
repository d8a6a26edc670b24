"""Nash-MD: its golden number, its opponents, and a game without a best answer that it settles and others do not."""

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError
from mmalign.objectives import nash_md
from mmalign.parts import Parts
from mmalign.records import Experience, Prompt, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.samplers.tokens import choose
from unit.toy_tokens import END, policy

PROMPTS = [Prompt("ab"), Prompt("c"), Prompt("ddd")]
SEEDS = [5, 6, 7]


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_golden_number():
    ratios, log_probs, mask = doubles([0.1, 0.2]), doubles([-2.0, -3.0]), doubles([1.0, 1.0])
    advantages = 0.8 - 0.5 - 0.1 * ratios
    found = nash_md.loss(log_probs, log_probs, advantages, mask, doubles(1.0), doubles(0.8))
    assert found.values.item() == pytest.approx(1.42)


# ---- opponents


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 3}])
def test_opponents_are_the_policys_samples_at_0_and_the_references_at_1(sampling):
    made = policy(**sampling)
    assert made.mixed(PROMPTS, SEEDS, 0.0).responses == made.sample(PROMPTS, SEEDS).responses
    opposed = made.mixed(PROMPTS, SEEDS, 1.0).responses
    with made.reference():
        assert opposed == made.sample(PROMPTS, SEEDS).responses


def test_each_token_is_of_the_normalised_geometric_mean(monkeypatch):
    """At every step the logits that are chosen from are, up to a constant, c log r + (1 - c) log p of what was said."""
    made, seen = policy(), []

    def watching(logits, *rest):
        seen.append(logits)
        return choose(logits, *rest)

    monkeypatch.setattr("mmalign.processes.tokens.choose", watching)
    (said,) = made.mixed(PROMPTS[:1], SEEDS[:1], 0.3).responses
    ids = [*made.model.tokenize(PROMPTS[:1], [said])[0]]
    for step, logits in enumerate(seen[: len(ids)]):
        encoded = made.model.encode(PROMPTS[:1], [[*ids[:step], END]])
        last = encoded.mask[0].nonzero().max() - 1
        log_p = made.model.head(made.model.hidden(encoded.inputs)[0, last]).log_softmax(-1)
        with made.reference():
            log_r = made.model.head(made.model.hidden(encoded.inputs)[0, last]).log_softmax(-1)
        expected = (log_r.exp() ** 0.3) * (log_p.exp() ** 0.7)
        assert_close(logits[0].softmax(-1), expected / expected.sum())


# ---- preferences


class Prefers:
    """A preference model: the sample with more of one letter is better, surely; it scores none."""

    def __call__(self, samples):
        return torch.zeros(len(samples))

    def preferred(self, samples, others):
        pairs = zip(samples.responses, others.responses, strict=True)
        return torch.tensor([float(one.count("g") > other.count("g")) for one, other in pairs])


def texts(*said):
    return Samples([Prompt("x")] * len(said), list(said))


def test_a_reward_that_scores_prefers_as_bradley_and_terry_and_one_that_compares_as_it_says():
    length = CheckedReward("length", lambda samples: torch.tensor([float(len(text)) for text in samples.responses]))
    one, other = texts("aa", "a", "aaa"), texts("a", "a", "aaaa")
    found = WeightedReward([length], [2.0]).preferred(one, other, at_once=2)
    assert_close(found, torch.tensor([2.0, 0.0, -2.0]).sigmoid())
    compares = WeightedReward([CheckedReward("prefers", Prefers())], [1.0])
    assert compares.preferred(texts("g", "a", "gg"), texts("a", "g", "g"), at_once=2).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(UserError, match="normalize"):
        WeightedReward([length], [1.0], ["group"]).preferred(one, other)


def test_samples_meet_their_own_opponents_and_unscored_ones_count_nothing():
    made = policy()
    rollout = made.rollout(PROMPTS, SEEDS)
    rewards = WeightedReward([CheckedReward("prefers", Prefers())], [1.0])
    scores = Scores(torch.tensor([0.0, torch.nan, 0.0]))
    found = nash_md.advantages(Parts(made, None, [], rewards), Experience(rollout, scores, 1, 2), beta=0.0)
    rivals = nash_md.opponents(Parts(made, None, []), rollout.samples, 0.5)
    expected = Prefers().preferred(rollout.samples, rivals)
    assert found["preferences"].tolist() == expected.tolist()
    assert_close(found["advantages"][0], (expected[0] - 0.5) * rollout.log_probs.mask[0])
    assert found["mask"][1].sum() == 0
    assert rivals.responses != rollout.samples.responses
    assert found["lengths"].tolist() == [1.0, 1.0, 1.0]


def test_at_the_reference_an_even_match_teaches_nothing():
    made = policy()
    torch.nn.init.zeros_(made.network.adapter.weight)
    torch.nn.init.zeros_(made.network.adapter.bias)
    rollout = made.rollout(PROMPTS, SEEDS)
    even = WeightedReward([CheckedReward("even", lambda samples: torch.zeros(len(samples)))], [1.0])
    found = nash_md.advantages(Parts(made, None, [], even), Experience(rollout, Scores(torch.zeros(3)), 1, 3))
    assert_close(found["advantages"], torch.zeros_like(found["advantages"]), atol=1e-9, rtol=0)


# ---- rock, paper, scissors

WINS = doubles([0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5])


def played(mixture: float, beta: float, steps: int = 2000) -> torch.Tensor:
    """The policy over three answers after steps down the expected loss; its reference finds all alike."""
    start = doubles(0.8, 0.15, 0.05).log()
    logits = start.clone().requires_grad_()
    reference = torch.full((3,), -(3.0**0.5)).double().log_softmax(-1)
    for _ in range(steps):
        log_p = logits.log_softmax(-1)
        opponent = (mixture * reference + (1 - mixture) * log_p.detach()).softmax(-1)
        preferences = WINS @ opponent
        advantages = (preferences - 0.5 - beta * (log_p - reference)).detach()[:, None]
        ones = torch.ones(3, 1, dtype=torch.float64)
        found = nash_md.loss(log_p[:, None], log_p.detach()[:, None], advantages, ones, ones[:, 0], preferences)
        (slope,) = torch.autograd.grad((log_p.detach().exp() * found.values).sum(), logits)
        with torch.no_grad():
            logits -= 0.3 * slope
    return logits.detach().softmax(-1)


def test_a_game_without_a_best_answer_ends_in_the_mixed_equilibrium():
    assert_close(played(0.5, 0.1), torch.full((3,), 1 / 3).double(), atol=1e-3, rtol=0)
    # Against itself and without the reference it runs round and round.
    assert played(0.0, 0.0).max() > 0.6


def test_scores_of_the_same_game_have_a_best_answer():
    """Bradley-Terry of what the start meets: paper beats its rock most of the time, so that one answer takes all."""
    met = WINS @ doubles(0.8, 0.15, 0.05)
    assert met.argmax() == 1
    assert met.max() - met.min() > 0.4
