"""What segments of texts earn: at which token it counts, how rewards add up, and what PPO makes of it."""

import pytest
import torch
from torch.testing import assert_close

from mmalign.errors import UserError
from mmalign.maths import advantages as maths
from mmalign.objectives import critic
from mmalign.parts import Parts
from mmalign.processes import segments
from mmalign.records import Experience, LogProbs, Prompt, Rollout, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from tests.unit.toy_tokens import LETTERS, policy

TEXTS = ["abcabcab", "ab", ""]


def decode(rows):
    return ["".join(LETTERS[i] for i in row if i) for row in rows]


def rollout(*texts: str) -> Rollout:
    """Each letter a token, then the end."""
    units = [[LETTERS.index(letter) for letter in text] + [0] for text in texts]
    mask = torch.zeros(len(texts), max(map(len, units)), dtype=torch.float64)
    for row, ids in zip(mask, units, strict=True):
        row[: len(ids)] = 1
    return Rollout(Samples([Prompt("a")] * len(texts), list(texts)), LogProbs(-mask, mask), units)


def test_golden_dense_reward_adds_where_segments_end_in_one_token():
    found = policy().at_units(rollout("abcdefga"[:7]), [[(3, 1.0), (6, -1.0), (6, 1.0)]])
    assert found.tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "spans", [[[(3, 1.0), (8, -1.0)], [(2, 0.5), (1, 0.25)], []], [[(99, 2.0)], [(99, 1.0)], [(1, 3.0)]]]
)
def test_nothing_is_lost_and_nothing_is_earned_where_no_token_counts(spans):
    data = rollout(*TEXTS)
    found = policy().at_units(data, spans)
    assert_close(found.sum(1), torch.tensor([sum(earned for _, earned in row) for row in spans]).double())
    assert (found[data.log_probs.mask == 0] == 0).all()


def test_a_letter_of_several_tokens_is_said_with_its_last():
    pieces = {1: b"a ", 2: "ä".encode()[:1], 3: "ä".encode()[1:], 4: b" b", 5: b""}

    def in_bytes(rows):
        return [b"".join(pieces[i] for i in row).decode(errors="replace").strip() for row in rows]

    ids, text = [1, 2, 3, 4, 5], "a ä b"
    assert segments.said(in_bytes, ids, text) == [1, 2, 3, 5, 5]
    assert segments.units_at([1, 3, 5], in_bytes, ids, text) == [0, 2, 3]
    assert segments.within([(0, 3), (4, 5)], in_bytes, ids, text).T.tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_tokens_of_segments_and_a_text_that_was_cut():
    assert segments.within([(1, 2), (3, 5)], decode, [1, 2, 3, 4, 0], " abcd ").T.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0],
    ]
    assert segments.within([], decode, [1, 0], "a").shape == (2, 0)
    with pytest.raises(UserError, match="does not say 'cd'"):
        segments.within([(0, 4)], decode, [1, 2, 0], "abcd")


# ---- several rewards


def spanned(name: str, *rows: list[tuple[int, float]]) -> CheckedReward:
    """A reward of the texts "0", "1", ... that earns these."""

    def score(samples: Samples) -> Scores:
        own = [rows[int(text)] for text in samples.responses]
        return Scores(torch.tensor([sum(earned for _, earned in row) for row in own]), spans=own)

    return CheckedReward(name, score)


NUMBERED = Samples([Prompt("x")] * 2, ["0", "1"])


@pytest.mark.parametrize("at_once", [1, 2])
def test_types_add_up_by_their_weights_wherever_each_cut_the_text(at_once: int):
    first = spanned("existence", [(3, 1.0), (6, -1.0)], [])
    second = spanned("relation", [(6, 1.0)], [(2, 1.0)])
    plain = CheckedReward("length", lambda samples: torch.ones(len(samples)))
    scores = WeightedReward([first, second, plain], [1.0, 0.5, 2.0])(NUMBERED, at_once=at_once)
    assert scores.spans == [[(3, 1.0), (6, -1.0), (6, 0.5)], [(2, 0.5)]]
    assert scores.values.tolist() == [2.5, 2.5]


def test_removing_a_type_is_weighing_it_with_nothing():
    both = [spanned("existence", [(3, 1.0)], [(3, -1.0)]), spanned("relation", [(6, 1.0)], [(2, 1.0)])]
    data = rollout("abcabcab", "ab")
    alone, zero = (WeightedReward(r, w)(NUMBERED) for r, w in ((both[:1], [1.0]), (both, [1.0, 0.0])))
    assert_close(policy().at_units(data, alone.spans), policy().at_units(data, zero.spans))


def test_segments_are_not_normalised():
    with pytest.raises(UserError, match="tells what each part earned"):
        WeightedReward([spanned("r", [], [])], [1.0], ["batch"])(NUMBERED)


# ---- in PPO


def earned(data: Rollout, scores: Scores, beta: float = 0.0) -> torch.Tensor:
    made = policy()
    made.add_critic()
    return critic.earned(Parts(made, None, []), Experience(data, scores, 1, at_once=2), beta, "k1", False)


def test_ppo_earns_it_where_segments_end_and_the_rest_at_the_last_token():
    data, spans = rollout("abc", "ab"), [[(1, 1.0), (3, -1.0)], [(2, 1.0)]]
    found = earned(data, Scores(torch.tensor([0.5, 1.0]).double(), spans=spans))
    assert_close(found, torch.tensor([[1, 0, -1, 0.5], [0, 1, 0, 0]]).double())
    unknown = earned(data, Scores(torch.tensor([torch.nan, 1.0]).double(), spans=spans))
    assert (unknown[0] == 0).all()


def test_one_segment_that_is_the_whole_response_is_a_reward_of_the_sequence():
    data, values = rollout("abc", "ab"), torch.tensor([1.0, -2.0]).double()
    # At the last letter, one before the end that counts as said with it: the return of all before is the same.
    spanned, whole = earned(data, Scores(values, spans=[[(3, 1.0)], [(2, -2.0)]])), earned(data, Scores(values))
    returns = [maths.generalised(r, torch.zeros_like(r), data.log_probs.mask, 1.0, 1.0) for r in (spanned, whole)]
    assert_close(returns[0][:, :2], returns[1][:, :2])


def test_the_advantage_is_the_return_to_go_less_the_value():
    data, spans = rollout("abc"), [[(1, 1.0), (2, 1.0), (3, -1.0)]]
    given = earned(data, Scores(torch.tensor([1.0]).double(), spans=spans))
    values = torch.tensor([[0.3, -0.2, 0.1, 0.4]]).double()
    found = maths.generalised(given, values, data.log_probs.mask, 1.0, 1.0)
    assert_close(found, torch.tensor([[1.0, 0.0, -1.0, 0.0]]).double() - values)
