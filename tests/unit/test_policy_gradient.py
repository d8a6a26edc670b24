"""Policy-gradient objectives: golden numbers and invariants of methods-lvlm 7 and 10 in float64, and runs of the toy language
model through the real loop.
"""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign import UserError, checkpoint, hookimpl, loop, options
from mmalign.builtin import finite
from mmalign.builtin.parts import mmalign_objectives
from mmalign.feeds import Rollouts
from mmalign.maths.advantages import at_last, generalised
from mmalign.objectives import critic, dapo, ddpo, dr_grpo, grpo, gspo, ppo, remax, rloo, surrogate
from mmalign.objectives.rollouts import prepared
from mmalign.parts import Parts
from mmalign.processes.tokens import TokensPolicy
from mmalign.records import Experience, LogProbs, Prompt, Rollout, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit.toy_runs import PROMPTS, made
from unit.toy_tokens import policy

EXACT = {"atol": 1e-9, "rtol": 0}
PAIRED = {"d3po", "prdp"}  # have no advantage; test_neighbours is about them
ROLLOUTS = [spec for spec in mmalign_objectives() if spec.feed == "rollouts" and spec.needs <= TokensPolicy.offers]
SPECS = {spec.name: spec for spec in ROLLOUTS if spec.name not in PAIRED}
REQUIRED = {"dr-grpo": {"length": 5}}


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clipped(log_ratios: torch.Tensor, advantage: float, low: float = 0.2, high: float = 0.2) -> torch.Tensor:
    """The loss of samples of one unit each."""
    ones = torch.ones(len(log_ratios), 1, dtype=torch.float64)
    return surrogate.loss(log_ratios[:, None], advantage * ones, ones, ones[:, 0], low, high).values


def experience(
    rewards: torch.Tensor, lengths: list[int], group: int = 2, units: torch.Tensor | None = None
) -> Experience:
    """A buffer that nobody sampled."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).double()
    samples = Samples([Prompt("a")] * len(lengths), ["b"] * len(lengths))
    rollout = Rollout(samples, LogProbs(-mask, mask), [[1] * n for n in lengths])
    return Experience(rollout, Scores(rewards, units=units), group, at_once=8)


def sampled(rewards: torch.Tensor, **sampling) -> tuple[Parts, Experience]:
    """The toy and a buffer of its own samples, two a prompt."""
    toy = policy(**sampling)
    toy.add_critic()
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    return Parts(toy, None, []), Experience(toy.rollout(prompts, list(range(8))), Scores(rewards), 2, at_once=3)


REWARDS = doubles(1, 0, 2, 5, 0, 0, 3, 4)


# ---- the surrogate


def test_golden_numbers_of_clipping():
    log_ratios = doubles(0.3, -0.15, 0.6)
    assert_close(clipped(log_ratios, 1.0), -doubles(1.2, math.exp(-0.15), 1.2), **EXACT)
    assert_close(clipped(log_ratios, -1.0), log_ratios.exp(), **EXACT)
    assert clipped(log_ratios, -1.0)[2].item() == pytest.approx(1.8221188, abs=1e-7)


@given(st.floats(-2, 2), st.sampled_from([-1.5, 1.0]))
def test_the_gradient_is_nothing_where_a_step_would_better_what_is_clipped_and_nowhere_else(log_ratio, advantage):
    x = doubles(log_ratio).requires_grad_()
    (slope,) = torch.autograd.grad(clipped(x, advantage, 0.2, 0.3).sum(), x)
    ratio = math.exp(log_ratio)
    if min(abs(ratio - 0.8), abs(ratio - 1.3)) > 1e-6:
        better = ratio > 1.3 if advantage > 0 else ratio < 0.8
        assert slope.item() == pytest.approx(0 if better else -advantage * ratio)


def test_golden_ratio_of_a_sequence():
    log_ratios, mask = doubles(0.1, -0.05, 0.2, 9.0)[None], doubles(1, 1, 1, 0)[None]
    given = (log_ratios, torch.zeros_like(mask), torch.ones_like(mask), mask, doubles(3))
    found = gspo.loss(*given, clip_low=9.0, clip_high=9.0)
    assert found.metrics["ratio"].item() == pytest.approx(1.0869040, abs=1e-7)
    assert found.values.item() == pytest.approx(-1.0869040, abs=1e-7)
    whole = rloo.loss(*given, clip=9.0)
    assert whole.values.item() == pytest.approx(-math.exp(0.25))
    assert whole.metrics["ratio"].item() == pytest.approx(found.metrics["ratio"].item() ** 3)


def test_reductions_of_one_example():
    units = doubles(1, 1, 1, 1, 2, 2, 0, 0).view(2, 4)
    data = experience(doubles(0, 0), [4, 2])
    means = {}
    for length in ("own", "mean", 4):
        made_of = prepared(data, torch.ones(2), length)
        means[length] = surrogate.summed(units, made_of["mask"], made_of["lengths"]).mean().item()
    assert means == {"own": 1.5, "mean": pytest.approx(8 / 6), 4: 1.0}


# ---- what is worked out once a buffer


def test_dr_grpo_is_grpo_without_its_two_divisions():
    data = experience(doubles(0, 1, 0, 10), [4, 2, 1, 3])
    plain, right = grpo.advantages(None, data), dr_grpo.advantages(None, data, length=7)
    assert_close(plain["lengths"], doubles(4, 2, 1, 3), **EXACT)
    assert_close(right["lengths"], doubles(7, 7, 7, 7), **EXACT)
    assert_close(right["advantages"][:, 0], doubles(-0.5, 0.5, -5, 5), **EXACT)
    assert_close(plain["advantages"][:, 0].abs(), doubles(*[0.5**0.5] * 4), atol=1e-3, rtol=0)
    assert_close(dapo.advantages(None, data)["lengths"], doubles(2.5, 2.5, 2.5, 2.5), **EXACT)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", SPECS)
def test_an_unscored_sample_counts_nowhere(name, bad):
    rewards = REWARDS.clone()
    rewards[3] = bad
    parts, data = sampled(rewards)
    parts = Parts(parts.policy, None, [], WeightedReward([CheckedReward("one", lambda s: torch.ones(len(s)))], [1.0]))
    objective = options.bind_objective(SPECS[name], REQUIRED.get(name, {}))
    worked_out = objective.advantages(parts, data)
    assert all(rows.isfinite().all() for rows in worked_out.values())
    assert (worked_out["mask"][3] == 0).all()
    assert (worked_out["advantages"][3] == 0).all()
    loss = objective.loss(**objective.terms(parts, {"rollout": data.rollout, **worked_out}, None))
    assert loss.values.isfinite().all()
    assert loss.values[3] == 0


def test_ddpo_clips_advantages_and_remembers_prompts():
    data = experience(doubles(1, 0, *[0] * 38), [1] * 40)
    assert ddpo.advantages(None, data)["advantages"].max() == 5
    past = [[0.0, 1.0] * 8] * 40
    remembered = Experience(data.rollout, data.scores, 2, 8, past)
    assert ddpo.advantages(None, remembered)["advantages"].max().item() == pytest.approx(1.0, abs=1e-5)


def test_golden_returns_of_remax():
    mask = torch.ones(1, 3, dtype=torch.float64)
    earned = at_last(doubles(1), mask) - 0.1 * doubles(0.1, 0.2, 0)[None]
    assert_close(generalised(earned, torch.zeros_like(earned), mask, 1, 1), doubles(0.97, 0.98, 1)[None], **EXACT)


def test_remax_compares_with_the_likeliest_sample():
    parts, data = sampled(REWARDS, temperature=0.0)
    reward = WeightedReward(
        [CheckedReward("length", lambda s: torch.tensor([float(len(t)) for t in s.responses]))], [1.0]
    )
    parts = Parts(parts.policy, None, [], reward)
    same = Experience(data.rollout, reward(data.rollout.samples), 2, at_once=3)
    assert (remax.advantages(parts, same)["advantages"] == 0).all()


def test_remax_scores_the_likeliest_beside_as_many_prompts_as_the_samples():
    parts, data = sampled(REWARDS)
    seen = []

    def bag(samples):
        seen.append(len(samples))
        return torch.zeros(len(samples))

    parts = Parts(parts.policy, None, [], WeightedReward([CheckedReward("bag", bag)], [1.0]))
    remax.baseline(parts, Experience(data.rollout, data.scores, 2, at_once=4))
    assert max(seen) == 2


def test_remax_divides_by_a_sample_s_own_length_if_asked():
    parts, data = sampled(REWARDS)
    parts = Parts(parts.policy, None, [], WeightedReward([CheckedReward("one", lambda s: torch.ones(len(s)))], [1.0]))
    units = data.rollout.log_probs.mask.sum(dim=1)
    assert_close(remax.advantages(parts, data, length="own")["lengths"], units)
    assert_close(remax.advantages(parts, data)["lengths"], units.mean().expand_as(units))


# ---- the penalty


@pytest.mark.parametrize("name", ["rloo", "reinforce", "remax", "ppo"])
def test_going_away_from_the_reference_is_paid_for(name):
    """Of samples that score alike, those which the policy likes more than the reference does come out worse."""
    parts, data = sampled(torch.zeros(8))
    zero = WeightedReward([CheckedReward("zero", lambda s: torch.zeros(len(s)))], [1.0])
    parts = Parts(parts.policy, None, [], zero)
    objective = options.bind_objective(SPECS[name], {"beta": 0.1})
    found = objective.advantages(parts, data)
    with torch.no_grad(), parts.policy.reference():
        reference = parts.policy.replay(data.rollout).sum()
    drift = data.rollout.log_probs.sum() - reference
    together = torch.stack([drift, (found["advantages"] * found["mask"])[:, 0]])
    assert torch.corrcoef(together)[0, 1] < -0.2


def test_the_reference_is_asked_only_where_it_counts():
    parts, data = sampled(REWARDS)
    assert "reference_log_probs" not in grpo.advantages(parts, data)
    with_reference = grpo.advantages(parts, data, beta=0.1)
    assert with_reference["reference_log_probs"].shape == with_reference["mask"].shape
    rows = rollouts_terms(grpo, parts, data, with_reference)
    plain = {name: row for name, row in rows.items() if name != "reference_log_probs"}
    k3 = torch.expm1(rows["reference_log_probs"] - rows["log_probs"]) - rows["reference_log_probs"] + rows["log_probs"]
    expected = grpo.loss(**plain).values + 0.1 * (k3 * rows["mask"]).sum(1) / rows["lengths"]
    assert_close(grpo.loss(**rows, beta=0.1).values, expected, **EXACT)


def rollouts_terms(module, parts: Parts, data: Experience, worked_out: dict) -> dict:
    return module.objective.terms(parts, {"rollout": data.rollout, **worked_out}, None)


def test_joined_rollouts_are_as_wide_as_the_widest_and_replay_alike():
    toy = policy()
    parts = [toy.rollout(PROMPTS[:2], [1, 2]), toy.rollout([PROMPTS[2]] * 2, [13, 21])]
    assert parts[0].log_probs.values.shape[1] != parts[1].log_probs.values.shape[1]
    whole = Rollout.joined(parts)
    assert_close(toy.replay(whole).values, whole.log_probs.values, rtol=0, atol=1e-12)
    assert whole.log_probs.mask.sum(1).tolist() == [len(ids) for ids in whole.units]
    picked = whole.picked([3, 0])
    assert [prompt.text for prompt in picked.samples.prompts] == ["a", "ab"]
    assert_close(toy.replay(picked).values, whole.log_probs.values[[3, 0]], rtol=0, atol=1e-12)


# ---- the first step


@pytest.mark.parametrize("name", ["grpo", "dr-grpo", "dapo", "gspo", "rloo", "ddpo", "reinforce"])
def test_the_first_step_is_the_plain_policy_gradient(name):
    parts, data = sampled(REWARDS)
    objective = options.bind_objective(
        SPECS[name], {**REQUIRED.get(name, {}), **({"beta": 0.0} if name == "rloo" else {})}
    )
    worked_out = objective.advantages(parts, data)
    rows = objective.terms(parts, {"rollout": data.rollout, **worked_out}, None)
    assert_close(rows["log_probs"], rows["old_log_probs"], rtol=0, atol=1e-12)
    loss = objective.loss(**rows)
    if "ratio" in loss.metrics:
        assert loss.metrics["ratio"].item() == pytest.approx(1.0, abs=1e-12)
        assert loss.metrics["clip_fraction"] == 0
    # A sequence is one action: its log-probability is the sum, or for gspo the mean, of its units'.
    n = torch.ones_like(rows["lengths"]) if name == "rloo" else rows["lengths"]
    plain = -(rows["advantages"] * rows["log_probs"] * rows["mask"]).sum(1) / n
    weights = list(parts.policy.network.adapter.parameters())
    ours = torch.autograd.grad(loss.values.sum(), weights, retain_graph=True)
    for slope, expected in zip(ours, torch.autograd.grad(plain.sum(), weights), strict=True):
        assert_close(slope, expected, rtol=0, atol=1e-10)


# ---- ppo


def test_ppo_learns_values_where_they_are_not_clipped():
    values, old, returns = doubles(0.5, 0.5, -0.5), doubles(0, 0.4, 0), doubles(1, 1, 1)
    found = critic.loss(values, old, returns, 0.2)
    assert_close(found, 0.5 * doubles(0.8**2, 0.5**2, 1.5**2), **EXACT)


def test_ppo_spreads_a_score_and_what_units_earned():
    dense = doubles(0, 1, 0, 0, 0, 0).view(2, 3)
    data = experience(doubles(3, 5), [3, 2], units=dense)
    found = critic.earned(None, data, 0.0, "k1", whiten=False)
    assert found.tolist() == [[0, 1, 2], [0, 5, 0]]
    white = critic.earned(None, data, 0.0, "k1", whiten=True)
    mask = data.rollout.log_probs.mask > 0
    assert_close(white, found / found[mask].std(correction=0))
    parts, data = sampled(REWARDS)
    paid = critic.earned(parts, data, 0.3, "k1", whiten=False)
    assert not torch.equal(paid, critic.earned(parts, data, 0.0, "k1", whiten=False))
    counts = data.rollout.log_probs.mask > 0
    assert_close(critic.earned(parts, data, 0.3, "k1", whiten=True), paid / paid[counts].std(correction=0))
    with pytest.raises(UserError, match="4 units"):
        critic.earned(None, experience(doubles(3, 5), [3, 2], units=torch.zeros(2, 4)), 0.0, "k1", False)


def test_ppo_with_a_critic_that_knows_nothing_is_reward_to_go():
    parts, data = sampled(REWARDS)
    found = ppo.advantages(parts, data, beta=0.0, lam=1.0)
    mask = found["mask"]
    assert_close(found["returns"] * mask, REWARDS[:, None] * mask, **EXACT)
    assert (found["old_values"] == 0).all()
    assert (found["advantages"] * mask).sum().item() == pytest.approx(0, abs=1e-9)


def test_the_critic_trains_and_is_kept_with_the_policy():
    parts, data = sampled(REWARDS)
    log_probs, values = parts.policy.replay_with_values(data.rollout)
    assert_close(log_probs.values, parts.policy.replay(data.rollout).values, rtol=0, atol=1e-12)
    assert set(parts.policy.state_dict()) == {"weight", "bias", "critic.weight", "critic.bias"}
    (values * data.rollout.log_probs.mask).sum().backward()
    assert parts.policy.network.critic.weight.grad.abs().sum() > 0
    torch.nn.init.ones_(parts.policy.network.critic.weight)
    other = policy()
    other.add_critic()
    other.load_state_dict(parts.policy.state_dict())
    assert_close(other.replay_with_values(data.rollout)[1], parts.policy.replay_with_values(data.rollout)[1])


# ---- options


def test_options_that_functions_share_have_one_default():
    for name, spec in SPECS.items():
        objective = spec.load()
        seen: dict[str, object] = {}
        for function in options._functions(objective):
            for option, parameter in options._keyword_only(function).items():
                assert seen.setdefault(option, parameter.default) == parameter.default, f"{name}.{option}"


@pytest.mark.parametrize("name", SPECS)
def test_a_negative_beta_and_a_clip_below_nothing_are_refused(name):
    known = set(options.complete(SPECS[name], REQUIRED.get(name, {})))
    for option in known & {"beta", "clip", "clip_low", "clip_high"}:
        (fault,) = options.check(SPECS[name], {**REQUIRED.get(name, {}), option: -0.1})
        assert fault[0] == option
    assert SPECS["dr-grpo"].samples_per_prompt == 2


# ---- runs


class Watch:
    """Remembers what a run did."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.rollouts: list[tuple[Rollout, Scores]] = []

    @hookimpl
    def mmalign_step_end(self, metrics):
        self.metrics.append(metrics)

    @hookimpl
    def mmalign_rollout(self, rollout, scores):
        self.rollouts.append((rollout, scores))

    def rewards(self) -> list[float]:
        return [row["reward/mean"] for row in self.metrics if "reward/mean" in row]


@pytest.mark.parametrize("name", SPECS)
def test_the_reward_rises_within_a_few_dozen_steps(name, tmp_path: Path):
    watch = Watch()
    buffer = {"samples_per_prompt": 8, "batch_size": 32}
    # Nash-MD rests where its own pull towards the reference says.
    run = made(
        tmp_path,
        name,
        {"beta": 0.0} if name == "nash-md" else REQUIRED.get(name),
        plugins=(watch,),
        rollouts=buffer,
        steps=30,
        batch_size=32,
        learning_rate=0.1,
    )
    loop.train(run)
    rewards = watch.rewards()
    assert len(rewards) == 30
    # The likeliest sample of the toy is far better than its others: remax learns, but from noise.
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + (0.2 if name == "remax" else 0.4)


def test_what_units_earn_is_followed_unit_by_unit(tmp_path: Path):
    """Every `g` costs where it is said, so that it is said less."""

    def blames(samples: Samples) -> Scores:
        units = torch.zeros(len(samples), max(1, *(len(text) for text in samples.responses)))
        for row, text in zip(units, samples.responses, strict=True):
            row[: len(text)] = torch.tensor([-float(letter == "g") for letter in text])
        return Scores(units.sum(dim=1), units=units)

    watch = Watch()
    run = made(
        tmp_path,
        "ppo",
        plugins=(watch,),
        rewards=WeightedReward([CheckedReward("blames", blames)], [1.0]),
        rollouts={"samples_per_prompt": 8, "batch_size": 16},
        steps=30,
        batch_size=32,
        learning_rate=0.1,
    )
    loop.train(run)
    rewards = watch.rewards()
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.4


def test_a_buffer_is_made_once_for_its_passes_and_is_told(tmp_path: Path):
    watch = Watch()
    loop.train(made(tmp_path, "grpo", plugins=(watch,), rollouts={"epochs": 2}, steps=8, batch_size=8))
    assert len(watch.rollouts) == 2
    assert [i for i, row in enumerate(watch.metrics) if "rollout/tied_groups" in row] == [0, 4]
    rollout, scores = watch.rollouts[0]
    assert len(rollout) == len(scores.values) == 16
    texts = [prompt.text for prompt in rollout.samples.prompts]
    assert texts == [text for text in texts[::4] for _ in range(4)]
    first = watch.metrics[0]
    assert first["reward/mean"] == pytest.approx(scores.values.mean().item())
    assert first["ratio"] == pytest.approx(1.0, abs=1e-12)
    assert first["clip_fraction"] == 0
    assert watch.metrics[1]["ratio"] != 1.0
    assert first["rollout/units"] == pytest.approx(rollout.log_probs.mask.sum(1).mean().item())


def test_every_pass_visits_every_sample_once(tmp_path: Path):
    run = made(tmp_path, "grpo", rollouts={"epochs": 2}, batch_size=4)
    seeds = [[seed for _ in range(4) for seed in next(run.feed)["rollout"].samples.seeds] for _ in range(3)]
    assert len(set(seeds[0])) == 16
    assert sorted(seeds[0]) == sorted(seeds[1]) != sorted(seeds[2])
    assert seeds[0] != seeds[1]


def test_batches_hold_the_rows_of_their_own_samples(tmp_path: Path):
    run = made(tmp_path, "grpo", batch_size=4)
    batch = next(run.feed)
    own = batch["rollout"].log_probs.mask
    assert batch["mask"].equal(own)
    buffer: Rollouts = run.feed
    whole = dict(zip(buffer._buffer.samples.seeds, buffer._worked_out["advantages"], strict=True))
    for seed, row in zip(batch["rollout"].samples.seeds, batch["advantages"], strict=True):
        assert row.equal(whole[seed])


def test_unscored_samples_and_tied_groups_are_counted(tmp_path: Path):
    watch = Watch()
    seen = iter([[None] + [1.0] * 5, [1.0] * 6, [1.0, 1.0, 2.0, math.inf]])
    reward = WeightedReward([CheckedReward("odd", lambda samples: next(seen))], [1.0])
    loop.train(made(tmp_path, "grpo", plugins=(watch,), rewards=reward, steps=1, batch_size=16))
    assert watch.metrics[0]["rollout/unscored"] == 2
    assert watch.metrics[0]["rollout/tied_groups"] == 3
    assert watch.metrics[0]["skipped"] == 0


def test_a_run_in_which_no_sample_is_scored_says_so(tmp_path: Path, capsys):
    reward = WeightedReward([CheckedReward("silent", lambda samples: [None] * len(samples))], [1.0])
    run = made(tmp_path, "grpo", {"beta": 0.1}, plugins=(finite,), rewards=reward, steps=2, batch_size=16)
    run.hook.mmalign_run_start(run=run)
    loop.train(run)
    run.hook.mmalign_run_end(run=run, error=None)
    assert "warning: none of the 2 updates had a gradient" in capsys.readouterr().out
    assert "reward/mean is null" in (tmp_path / "warnings.jsonl").read_text()


@pytest.mark.parametrize(("name", "given"), [("grpo", {"beta": 0.1}), ("ppo", {}), ("ddpo", {"least": 5})])
def test_resuming_in_the_middle_of_a_buffer_is_the_same_run(name, given, tmp_path: Path):
    buffer = {"epochs": 2, "history": 8}
    (tmp_path / "whole").mkdir()
    whole, rest = Watch(), Watch()
    run = made(tmp_path / "whole", name, given, plugins=(whole,), rollouts=buffer, steps=7, batch_size=4)
    run.steps = 3
    loop.train(run)
    folder = run.checkpoint()
    run.steps = 7
    loop.train(run)
    (tmp_path / "resumed").mkdir()
    restored = checkpoint.read(folder, 0)
    again = made(tmp_path / "resumed", name, given, restored, (rest,), rollouts=buffer, steps=7, batch_size=4)
    loop.train(again)
    assert rest.metrics == whole.metrics[3:]
    expected, found = run.parts.policy.state_dict(), again.parts.policy.state_dict()
    assert all(found[key].equal(expected[key]) for key in expected)


def test_a_restored_buffer_is_the_one_that_was_kept(tmp_path: Path):
    run, other = (made(tmp_path, "grpo") for _ in range(2))
    next(run.feed)
    samples = replace(run.feed._rollout.samples, frame_rate=8.0)
    run.feed._rollout = replace(run.feed._rollout, samples=samples)
    other.feed.load_state_dict(run.feed.state_dict())
    assert other.feed._rollout.samples == samples


def test_the_second_buffer_knows_what_prompts_scored_in_the_first(tmp_path: Path):
    pasts = []
    run = made(tmp_path, "ddpo", rollouts={"history": 6}, steps=2, batch_size=16)
    plain = run.feed._advantages
    run.feed._advantages = lambda parts, data: (pasts.append(data.past), plain(parts, data))[1]
    loop.train(run)
    assert {len(past) for past in pasts[0]} == {4}
    assert {len(past) for past in pasts[1]} == {6}


def test_dropout_is_off_where_likelihoods_are_compared(tmp_path: Path):
    toy = policy(max_new_tokens=5)
    toy.network.dropped = torch.nn.Dropout(0.3)
    run = made(tmp_path, "grpo", model=toy)
    assert toy.network.dropped.p == 0
    assert "dropout of 1 layers is off" in (run.folder / "warnings.jsonl").read_text()


def test_an_objective_on_rollouts_without_advantages_is_refused(tmp_path: Path):
    run = made(tmp_path, "grpo")
    odd = SimpleNamespace(**{**vars(run), "parts": Parts(None, SimpleNamespace(advantages=None), [])})
    with pytest.raises(UserError, match="advantages"):
        Rollouts(odd, [], run.feed.options)
