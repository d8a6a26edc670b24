"""Learning a flow from its own samples: the divergence itself (Flow-GRPO), ratios without bias (GRPO-Guard), and bad samples that
push away (DiffusionNFT)."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mmalign.maths import kl
from mmalign.maths.advantages import among
from mmalign.maths.transitions import Transition
from mmalign.objectives import flow_grpo, grpo, grpo_guard, nft
from mmalign.records import Experience, Scores
from unit import toy
from unit.toy import rng

B, U, D = 3, 2, 5


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


# ---- GRPO-Guard


def moved(by: float, samples: int = B, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the loss is told of steps drawn from old means once the means have moved, and the log-ratio of the paper."""
    std = 0.3 * torch.ones(samples * U, 1, dtype=torch.float64)
    old, z = doubles(samples * U, D, seed=seed), doubles(samples * U, D, seed=seed + 1)
    mean = old + by * doubles(1, D, seed=7)
    drawn = Transition(old, std).draw(z)
    told = {
        "log_probs": Transition(mean, std).log_prob(drawn),
        "old_log_probs": Transition(old, std).log_prob(drawn),
        "drifts": (mean - old).square().mean(dim=1),
        "stds": std[:, 0],
        "falls": torch.full_like(std[:, 0], 0.25),
        "advantages": torch.ones_like(std[:, 0]),
        "mask": torch.ones_like(std[:, 0]),
    }
    rows = {name: value.reshape(samples, U) for name, value in told.items()}
    expected = (z * (mean - old)).mean(dim=1).reshape(samples, U)
    return {**rows, "lengths": torch.full((samples,), float(U), dtype=torch.float64)}, expected


def test_what_is_left_of_the_ratio_is_the_drawn_noise_times_how_far_the_mean_moved():
    told, log_ratios = moved(0.5)
    assert_close(grpo_guard.loss(**told, clip=1e3).values, -(log_ratios.exp() / 0.25).mean(dim=1))


def test_the_ratio_is_right_on_average_where_the_plain_one_is_too_small():
    told, log_ratios = moved(0.5, samples=20_000)
    plain = told["log_probs"] - told["old_log_probs"]
    error = log_ratios.std() / (20_000 * U) ** 0.5
    assert abs(log_ratios.mean()) < 4 * error
    assert_close(plain.mean(), -(told["drifts"] / (2 * 0.3**2)).mean(), atol=float(4 * error / 0.3), rtol=0)


@pytest.mark.parametrize(("advantage", "outside"), [(1.0, 0.1), (-1.0, -0.1)])
def test_beyond_the_clip_range_nothing_is_learned(advantage, outside):
    told, _ = moved(0.0)
    moved_on = (told["log_probs"] + outside).requires_grad_()
    found = grpo_guard.loss(**{**told, "log_probs": moved_on, "advantages": told["advantages"] * advantage})
    assert torch.autograd.grad(found.values.sum(), moved_on)[0].count_nonzero() == 0
    assert found.metrics["clip_fraction"] == 1


def buffer(kind: str = "flow"):
    made = toy.parts(kind, steps=4)
    made.policy.sampling = replace(made.policy.sampling, eta=0.7)
    asked = [prompt for prompt in toy.prompts(2) for _ in range(2)]
    scores = Scores(torch.tensor([0.0, 1.0, 0.25, 0.5]))
    return made, Experience(made.policy.rollout(asked, range(4)), scores, 2, 3)


@pytest.mark.parametrize("kind", ["flow", "v"])
def test_steps_are_those_of_the_replay(kind):
    made, experience = buffer(kind)
    steps = made.policy.replay_steps(experience.rollout)
    assert_close(steps.log_probs, made.policy.replay(experience.rollout).values)
    assert steps.means.shape == (4, *steps.log_probs.shape[1:], *toy.SHAPE)
    assert (steps.stds > 0).all()
    levels = made.policy.model.path.coefficients(made.policy.model.path.grid(4))[1]
    assert_close(steps.falls.sum(dim=1), (levels[0] - levels[-2]).expand(4).to(steps.falls))


def test_before_training_the_ratio_is_1_and_later_it_is_not():
    made, experience = buffer()
    batch = {"rollout": experience.rollout, **grpo_guard.advantages(made, experience)}
    found = grpo_guard.loss(**grpo_guard.terms(made, batch, rng()))
    assert abs(float(found.metrics["ratio"]) - 1) < 1e-9
    assert toy.gradient(made, found.values.mean()).norm() > 0
    with torch.no_grad():
        for weight in made.policy.network.adapter.parameters():
            weight += 0.1
    later = grpo_guard.terms(made, batch, rng())
    assert (later["drifts"] > 0).all()
    assert "old_means" not in later


# ---- Flow-GRPO


def test_flow_grpo_adds_the_divergence_of_each_step_times_its_length():
    """On a flow that is (Δμ)² / (2 σ_t²) for a step's std σ_t sqrt(|Δt|), as in the authors' code; `grpo`'s k3 is far smaller."""
    made, experience = buffer()
    batch = {"rollout": experience.rollout, **flow_grpo.advantages(made, experience)}
    with torch.no_grad():
        for weight in made.policy.network.adapter.parameters():
            weight.zero_()
    started = flow_grpo.terms(made, batch, rng())
    assert flow_grpo.loss(**started).metrics["kl"] == 0

    with torch.no_grad():
        for weight in made.policy.network.adapter.parameters():
            weight += 0.05
    told = flow_grpo.terms(made, batch, rng())
    exact = made.policy.replay_divergence(experience.rollout).values.detach()
    grid = made.policy.model.path.grid(4)
    lengths = torch.stack([(grid[:-1] - grid[1:])[one["steps"]] for one in experience.rollout.units])
    still = {**told, "advantages": torch.zeros_like(told["advantages"])}
    found = flow_grpo.loss(**still, beta=2.0)
    assert (exact > 0).all()
    assert_close(found.values.detach(), 2 * (lengths * exact).mean(dim=1))
    assert toy.gradient(made, found.values.mean()).norm() > 0


def test_flow_grpo_without_a_divergence_is_grpo_and_asks_no_reference():
    made, experience = buffer()
    worked_out = flow_grpo.advantages(made, experience, beta=0.0)
    assert worked_out.keys() == grpo.advantages(made, experience).keys()
    batch = {"rollout": experience.rollout, **worked_out}
    ours = flow_grpo.loss(**flow_grpo.terms(made, batch, rng()), clip=1e-3, beta=0.0)
    theirs = grpo.loss(**grpo.terms(made, batch, rng()), clip_low=1e-3, clip_high=1e-3)
    assert_close(ours.values, theirs.values)
    assert "kl" not in ours.metrics
    spread = grpo.advantages(made, experience, spread="batch")["advantages"]
    assert_close(worked_out["advantages"], spread)


def test_k3_of_log_probs_that_are_means_is_no_divergence():
    """What `flow-grpo` is for: of D = 1000 dimensions, each 0.1 deviations away, KL is 0.005, and k3 some hundredth of that."""
    std, apart = torch.ones(500, 1, dtype=torch.float64), 0.1
    ours, reference = (Transition(by * torch.ones(500, 1000, dtype=torch.float64), std) for by in (apart, 0.0))
    drawn = ours.draw(doubles(500, 1000))
    log_ratio = ours.log_prob(drawn) - reference.log_prob(drawn)
    divergence = ours.kl(reference).mean()
    assert_close(divergence.item(), apart**2 / 2)
    assert_close(kl.k1(log_ratio).mean().item(), divergence.item(), rtol=0.1, atol=0)
    assert kl.k3(log_ratio).mean() < divergence / 100


# ---- DiffusionNFT


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_errors_of_both_mixed_velocities_follow_from_the_models_own(beta):
    theirs, old, ours = (doubles(B, D, seed=seed) for seed in range(3))
    r = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    plus, minus = (1 - beta) * old + beta * ours, (1 + beta) * old - beta * ours
    errors = [(one - theirs).square().mean(dim=1) for one in (plus, minus)]
    found = nft.loss(*told(theirs, old, ours), r, beta=beta)
    assert_close(found.values, (r * errors[0] + (1 - r) * errors[1]) / beta)


def told(theirs: torch.Tensor, old: torch.Tensor, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
    apart = ((ours, theirs, -0.5), (old, theirs, -0.5), (ours, old, 0.5))
    return tuple(factor * (a - b).square().mean(dim=1) for a, b, factor in apart)


def test_at_the_old_model_good_samples_pull_bad_ones_push_and_middling_ones_do_nothing():
    theirs, old = doubles(B, D), doubles(B, D, seed=1)
    ours = old.clone().requires_grad_()
    r = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(nft.loss(*told(theirs, old, ours), r, beta=0.3).values.sum(), ours)
    assert_close(gradient, 2 * (2 * r[:, None] - 1) * (old - theirs) / D)


def test_how_good_a_sample_is_follows_from_its_rivals():
    made, batch = toy.parts("flow"), toy.pairs(4)
    scores = [0.0, 1.0, 2.0, 100.0]
    batch = {"prompt": batch["prompt"], "sample": batch["chosen"], "score": scores}
    batch |= {"rivals": [[0.0, 1.0, 2.0]] * 3 + [[100.0, 100.0]]}
    found = nft.terms(made, batch, rng(), limit=2.0)["optimality"]
    assert_close(found, torch.tensor([0.25, 0.5, 0.75, 0.5], dtype=torch.float64), atol=1e-4, rtol=0)
    assert nft.terms(made, batch, rng(), limit=0.1)["optimality"].tolist()[::2] == [0.0, 1.0]


def test_advantages_among_rivals_skip_those_that_are_missing():
    rivals = torch.tensor([[1.0, 3.0, -torch.inf], [2.0, -torch.inf, -torch.inf]], dtype=torch.float64)
    assert_close(among(rivals[:, 0], rivals, eps=0.0)[0].item(), -1 / 2**0.5)
    assert among(rivals[:, 0], rivals)[1] == 0
