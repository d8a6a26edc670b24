"""The tokens policy: exact log-probs in pieces, samples that depend on their seed alone, replay equal to rollout."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError
from mmalign.maths import kl
from mmalign.maths.log_probs import token_log_probs
from mmalign.objectives import dpo, sft
from mmalign.parts import Parts
from mmalign.processes import process_class
from mmalign.processes.tokens import TokensPolicy, text_of
from mmalign.records import Prompt, Samples, batched
from mmalign.samplers.tokens import choose
from unit.toy_tokens import END, LETTERS, policy

PROMPTS = [Prompt("ab"), Prompt("cdefg"), Prompt("a"), Prompt("gg")]
TEXTS = ["cab", "", "abcdefg", "g"]
RNG = torch.Generator()


def parts(made: TokensPolicy) -> Parts:
    return Parts(made, None, [])


def written_out(made: TokensPolicy, prompt: Prompt, text: str) -> torch.Tensor:
    """The log-probs of one response, by one softmax over everything."""
    ids = torch.tensor([[LETTERS.index(letter) for letter in prompt.text + text] + [END]])
    log_softmax = made.network.head(made.network(ids)).log_softmax(-1)[0]
    return torch.stack([log_softmax[i - 1, ids[0, i]] for i in range(len(prompt.text), ids.shape[1])])


# ---- log-probabilities


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_pieces_equal_the_whole_in_value_and_gradient(chunk, temperature):
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 11, (7,))
    whole = (hidden @ weight.T / temperature).log_softmax(-1)[torch.arange(7), ids]
    pieces = token_log_probs(hidden, ids, lambda h: h @ weight.T, temperature, chunk)
    assert_close(pieces, whole, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(x.square().sum(), (hidden, weight)) for x in (pieces, whole)), strict=True
    ):
        assert_close(ours, theirs, rtol=0, atol=1e-10)
    with torch.no_grad():
        assert_close(token_log_probs(hidden, ids, lambda h: h @ weight.T, temperature, chunk), whole.detach())


def test_no_token_has_no_log_prob_and_half_precision_is_widened():
    assert token_log_probs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), lambda h: h).shape == (0,)
    assert token_log_probs(torch.zeros(2, 5).bfloat16(), torch.tensor([0, 1]), lambda h: h).dtype == torch.float32


def test_units_are_the_response_tokens_and_their_end_alone():
    made = policy()
    encoded = made.encode(PROMPTS, TEXTS, RNG)
    found = made.log_likelihood(encoded, made.draw(encoded, RNG))
    assert found.values.shape == found.mask.shape == (4, 8)
    assert found.mask.sum(1).tolist() == [4, 1, 8, 2]
    for i, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        own = written_out(made, prompt, text)
        assert_close(found.values[i, : len(own)], own, rtol=0, atol=1e-12)
        assert (found.values[i, len(own) :] == 0).all()
        assert found.sum()[i].item() == pytest.approx(own.sum().item(), abs=1e-12)
        assert found.mean()[i].item() == pytest.approx(own.mean().item(), abs=1e-12)


def test_logits_never_exist_for_all_tokens(monkeypatch):
    made = policy()
    monkeypatch.setattr(token_log_probs, "__defaults__", (1.0, 4))
    encoded = made.encode(PROMPTS, TEXTS, RNG)
    made.log_likelihood(encoded, made.draw(encoded, RNG)).sum().sum().backward()
    assert made.model.largest == 4


# ---- samples


def test_the_make_up_of_a_batch_changes_no_sample():
    made = policy()
    together = made.sample(PROMPTS, [7, 8, 9, 10])
    assert list(together.responses) == [
        made.sample([p], [s]).responses[0] for p, s in zip(PROMPTS, (7, 8, 9, 10), strict=True)
    ]
    assert len({made.sample(PROMPTS[:1], [seed]).responses[0] for seed in range(20)}) > 5


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.5, 0.2, 0.3]).log().expand(4000, 3)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    drawn = choose(logits, uniform).bincount(minlength=3) / 4000
    assert_close(drawn, torch.tensor([0.5, 0.2, 0.3]), rtol=0, atol=0.03)
    assert choose(logits, uniform, top_p=0.6).bincount(minlength=3)[1] == 0
    assert (choose(logits, uniform, top_k=1) == 0).all()
    assert (choose(logits, uniform, top_p=1e-6) == 0).all()
    assert (choose(logits, uniform, temperature=0) == 0).all()


@given(st.lists(st.floats(-40, 40), min_size=2, max_size=6), st.floats(0, 1, exclude_max=True), st.floats(0.01, 1))
def test_what_is_ruled_out_is_never_drawn(values, uniform, top_p):
    logits = torch.tensor([[*values, -torch.inf]])
    for point in (uniform, 0.0, 1 - 2**-24):
        assert 0 <= choose(logits, torch.tensor([point]), top_p=top_p).item() < len(values)


# ---- rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_replay_equals_rollout_and_carries_gradient(temperature):
    made = policy(temperature=temperature)
    rollout = made.rollout(PROMPTS, [1, 2, 3, 4])
    assert not rollout.log_probs.values.requires_grad
    replayed = made.replay(rollout)
    assert_close(replayed.values, rollout.log_probs.values, rtol=0, atol=1e-12)
    assert replayed.mask.equal(rollout.log_probs.mask)
    assert rollout.log_probs.mask.sum(1).tolist() == [len(ids) for ids in rollout.units]
    (slope,) = torch.autograd.grad(replayed.sum().sum(), made.network.adapter.weight)
    assert slope.abs().sum() > 0


def test_a_slice_of_a_rollout_replays_in_the_width_of_the_whole():
    made = policy()
    rollout = made.rollout(PROMPTS, [1, 2, 3, 4])
    piece = rollout[1:3]
    assert len(piece) == 2
    assert_close(made.replay(piece).values, rollout.log_probs.values[1:3], rtol=0, atol=1e-12)


def test_rollout_log_probs_are_those_of_the_drawing():
    """Step by step, as the tokens were drawn, at the sampling's temperature."""
    made = policy(temperature=0.6)
    steps: list[torch.Tensor] = []
    generate = made.model.generate

    def listen(prompts, choose, count):
        def wrapped(logits, step):
            ids = choose(logits, step)
            steps.append((logits / 0.6).log_softmax(-1).gather(-1, ids[:, None])[:, 0])
            return ids

        return generate(prompts, wrapped, count)

    made.model.generate = listen
    rollout = made.rollout(PROMPTS, [1, 2, 3, 4])
    drawn = torch.stack(steps, dim=1)[:, : rollout.log_probs.values.shape[1]]
    assert_close(rollout.log_probs.values, (drawn * rollout.log_probs.mask).detach(), rtol=0, atol=1e-12)


# ---- objectives that know nothing of tokens


def test_dpo_at_the_reference_is_log_two_and_its_gradient_is_not_nothing():
    made = policy()
    torch.nn.init.zeros_(made.network.adapter.weight)
    torch.nn.init.zeros_(made.network.adapter.bias)
    batch = {"prompt": PROMPTS, "chosen": TEXTS, "rejected": TEXTS[::-1]}
    loss = dpo.loss(**dpo.terms(parts(made), batch, RNG))
    assert_close(loss.values, torch.full((4,), math.log(2), dtype=torch.float64), rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(loss.values.sum(), made.network.adapter.weight)
    assert slope.abs().sum() > 0


def test_sft_is_the_mean_cross_entropy_of_a_response():
    made = policy()
    found = sft.loss(**sft.terms(parts(made), {"prompt": PROMPTS, "sample": TEXTS}, RNG)).values
    expected = [-written_out(made, p, t).mean() for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)


def test_the_reference_is_the_base_and_gives_the_policy_back():
    made = policy()
    encoded = made.encode(PROMPTS, TEXTS, RNG)
    ours = made.log_likelihood(encoded, made.draw(encoded, RNG)).values
    with made.reference():
        base = made.log_likelihood(encoded, made.draw(encoded, RNG)).values
    assert not base.allclose(ours)
    assert made.log_likelihood(encoded, made.draw(encoded, RNG)).values.equal(ours)


# ---- KL


def test_kl_estimators_by_hand():
    d = torch.tensor(0.3, dtype=torch.float64)
    assert [kl.k1(d).item(), kl.k2(d).item()] == pytest.approx([0.3, 0.045], abs=1e-15)
    assert kl.k3(d).item() == pytest.approx(0.0408182, abs=1e-7)


@given(st.floats(-5, 5))
def test_k2_and_k3_are_never_negative_and_agree_nearby(d):
    ratio = torch.tensor(d, dtype=torch.float64)
    assert kl.k2(ratio) >= 0
    assert kl.k3(ratio) >= 0
    small = ratio * 1e-3
    assert kl.k3(small).item() == pytest.approx(kl.k2(small).item(), abs=1e-7)


def test_k1_and_k3_average_to_the_divergence():
    p = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    r = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = (p * (p / r).log()).sum()
    for estimator in (kl.k1, kl.k3):
        assert_close((p * estimator((p / r).log())).sum(), exact)


# ---- records


def test_texts_and_pixels_travel_in_one_record_and_are_never_mistaken():
    texts = Samples(PROMPTS, TEXTS, [1, 2, 3, 4])
    assert list(texts[1:3].responses) == TEXTS[1:3]
    assert list(Samples.joined([texts[:1], texts[1:]]).responses) == TEXTS
    with pytest.raises(UserError, match="answers in words"):
        _ = texts.media
    pixels = Samples(PROMPTS[:2], batched([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]))
    assert Samples.joined([pixels, pixels]).media.shape == (4, 3, 2, 2)
    with pytest.raises(UserError, match="makes pictures"):
        _ = pixels.responses


def test_a_response_is_a_text_or_a_file_of_it(tmp_path: Path):
    (tmp_path / "a.txt").write_text("ä", encoding="utf-8")
    assert [text_of("ä"), text_of("ä".encode()), text_of(tmp_path / "a.txt")] == ["ä"] * 3
    with pytest.raises(UserError, match="text-pairs"):
        text_of(torch.zeros(3, 2, 2))
    with pytest.raises(UserError, match=r"gone\.txt"):
        text_of(tmp_path / "gone.txt")


def test_the_process_is_found_by_name_and_tells_the_model_what_to_recompute():
    assert process_class("tokens") is TokensPolicy
    made = policy()
    assert not made.model.recomputes
    assert TokensPolicy(made.model, made.sampling, gradient_checkpointing=True).model.recomputes
