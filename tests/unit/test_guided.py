"""Guidance by a reward: exact on a Gaussian, uphill on anything, nothing at weight 0; and the best of several samples."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from mmalign.maths.paths import VP, Flow, expand
from mmalign.maths.transitions import step
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.records import Scores
from mmalign.samplers.guided import Tally, best_of, bounded, guided, of_clean, of_noisy
from unit.toy import ToyModel, alphas, parts, paths, prompts, reward, rng

KAPPA, W = 0.8, 1.5
FLOW = Flow()


def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The exact one for data N(0, 1)."""
    return expand((2 * t - 1) / ((1 - t) ** 2 + t**2), x) * x


def noised_reward(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What κ x0 is worth at x_t, up to a constant: its gradient is κ (1 - t) / V."""
    return (expand(KAPPA * (1 - t) / ((1 - t) ** 2 + t**2), x) * x)[:, 0]


def ended(path, grid: torch.Tensor, denoise) -> tuple[float, float]:
    """Mean and deviation at the end, for x ~ N(0, 1) at the start: the sampler is affine, so two points tell."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t, t_next in itertools.pairwise(grid):
        x = step(path, x, t.expand(2), t_next.expand(2), denoise(x, t.expand(2))).mean
    return x[0].item(), (x[1] - x[0]).item()


@pytest.mark.parametrize("kind", ["noisy", "clean"])
def test_guidance_moves_a_gaussian_by_what_it_should(kind):
    """p(x0) exp(w κ x0) of N(0, 1) is N(w κ, 1). For this reward the estimate of x0 tells the very same."""
    slope = (
        of_noisy(velocity, noised_reward) if kind == "noisy" else of_clean(velocity, FLOW, lambda x: KAPPA * x[:, 0])
    )
    mean, deviation = ended(FLOW, torch.linspace(1, 0, 1001, dtype=torch.float64), guided(FLOW, velocity, slope, W))
    assert mean == pytest.approx(W * KAPPA, abs=1e-2)
    assert deviation == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_diffusion_is_moved_as_flow_is(prediction):
    path = VP(alphas(), prediction)

    def exact(x, t):
        a, s = path.coefficients_like(t, x)
        return {"epsilon": s * x, "v": 0 * x, "x0": a * x}[prediction]

    slope = of_clean(exact, path, lambda x: KAPPA * x[:, 0])
    mean, deviation = ended(path, torch.arange(999, -2, -5), guided(path, exact, slope, W))
    # The table's noisiest x_t still holds a little of the data, whose mean the start does not have.
    missing = W * KAPPA * alphas()[-1].sqrt().item()
    assert mean == pytest.approx(W * KAPPA - missing, abs=1e-2)
    assert deviation == pytest.approx(1, abs=1e-2)


def test_at_pure_noise_the_reward_is_not_asked():
    tally, x = Tally(), torch.randn(3, 1, generator=rng(), dtype=torch.float64)
    slope = bounded(of_noisy(velocity, lambda x, t: x[:, 0] * torch.nan), tally)
    led = guided(FLOW, velocity, slope, W)
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.equal(led(x, ones), velocity(x, ones))
    assert tally.drain() == []
    led(x, 0.9 * ones)
    assert tally.drain() == ["3 of 3 gradients of the reward were not finite; these steps were not led"]


def test_on_a_flow_it_is_flow_nrg():
    """v - w t / (1 - t) ∇r, and at t = 1 just v."""
    x = torch.randn(3, 1, generator=rng(), dtype=torch.float64)
    t = torch.tensor([0.3, 0.8, 1.0], dtype=torch.float64)
    found = guided(FLOW, velocity, of_noisy(velocity, noised_reward), W)(x, t)
    slope = KAPPA * (1 - t[:2]) / ((1 - t[:2]) ** 2 + t[:2] ** 2)
    expected = velocity(x, t)
    expected[:2, 0] -= W * t[:2] / (1 - t[:2]) * slope
    assert_close(found, expected)


@pytest.mark.parametrize("path", paths())
def test_a_guided_step_goes_uphill(path):
    """Everywhere but in pure noise the estimate of x0 gains, at first order by w s²/a² ‖∇r‖² and more than nothing."""
    model = ToyModel(paths()[path])
    condition = model.condition(["xx"])
    x = torch.randn(1, *model.latent_shape, generator=rng(), dtype=torch.float64)
    t = model.path.grid(6)[3:4]

    def denoise(x, t):
        return model.predict(x, t, condition)

    def score(x0):
        return (model.decode(x0) ** 2).mean(dim=(1, 2, 3))

    slope = of_clean(denoise, model.path, score)
    plain, led = denoise(x, t), guided(model.path, denoise, slope, 1e-3)(x, t)
    before, after = (score(model.path.split(x, t, output)[0]) for output in (plain, led))
    assert after > before


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_weight_nothing_is_plain_sampling_bitwise(path, eta):
    made = DenoisingPolicy(ToyModel(paths()[path]), Sampling(4, 2.0, eta=eta))
    plain = made.sample(prompts(2), [1, 2]).media
    assert made.guided(prompts(2), [1, 2], reward, 0.0).media.equal(plain)


@pytest.mark.parametrize("path", paths())
def test_guided_samples_please_the_reward_more(path):
    made = DenoisingPolicy(ToyModel(paths()[path]), Sampling(6, 2.0, eta=0.0))
    plain = reward(made.sample(prompts(3), [1, 2, 3])).values
    led = made.guided(prompts(3), [1, 2, 3], reward, 0.5)
    assert (reward(led).values > plain).all()
    assert not led.media.requires_grad
    alone = made.guided(prompts(3)[1:2], [2], reward, 0.5).media
    assert_close(led.media[1:2], alone)


def test_gradients_are_finite_and_no_longer_than_they_may_be():
    """Of each sample by itself: one that is lost takes no other with it, and both kinds are counted."""
    given = torch.tensor([[3.0, 4.0], [torch.nan, 1.0], [0.3, 0.4], [torch.inf, 0.0]], dtype=torch.float64)
    tally = Tally()
    x = torch.zeros(4, 2, dtype=torch.float64)
    output, found = bounded(lambda x, t: (x, given), tally, 1.0)(x, torch.zeros(4))
    assert output is x
    assert_close(found, torch.tensor([[0.6, 0.8], [0, 0], [0.3, 0.4], [0, 0]], dtype=torch.float64))
    assert (tally.asked, tally.unusable, tally.clipped) == (4, 2, 1)
    assert tally.drain() == [
        "2 of 4 gradients of the reward were not finite; these steps were not led",
        "1 of 4 gradients of the reward were longer than max_norm and were clipped",
    ]
    assert tally.drain() == []
    _, whole = bounded(lambda x, t: (x, given), tally)(x, torch.zeros(4))
    assert whole[0].equal(given[0])


def test_the_formula_through_the_policy_skips_pure_noise_and_the_network():
    """Its first step, at t = 1, is the plain one: nobody asks what the reward says."""
    policy, seen = DenoisingPolicy(ToyModel(paths()["flow"]), Sampling(1, 1.0, eta=0.0)), []

    def noisy(x, t):
        seen.append(t)
        return x.flatten(1).sum(dim=1)

    found = policy.guided_noisy(prompts(2), [1, 2], noisy, 5.0).media
    plain = policy.sample(prompts(2), [1, 2]).media
    assert_close(found, plain)
    assert not seen
    assert policy.guided_noisy(prompts(2), [1, 2], noisy, 0.0).media.equal(plain)


# ---- best of n


def test_the_best_of_one_is_the_sample():
    policy = parts(steps=2).policy
    assert best_of(1, policy, reward, prompts(3), [1, 2, 3]).media.equal(policy.sample(prompts(3), [1, 2, 3]).media)


def test_the_best_of_several_is_the_best_and_tells_its_seed():
    policy, seen = parts(steps=2).policy, []

    def listening(samples):
        seen.append(reward(samples).values)
        return reward(samples)

    found = best_of(6, policy, listening, prompts(3), [1, 2, 3])
    assert_close(reward(found).values, torch.cat(seen).unflatten(0, (3, 6)).max(dim=1).values)
    assert_close(policy.sample(prompts(3), found.seeds).media, found.media)
    assert len(seen) == 6


def test_a_sample_without_a_score_is_never_the_best():
    policy, calls = parts(steps=2).policy, []

    def moody(samples):
        calls.append(samples)
        return Scores(torch.tensor([float("nan"), 0.0] if len(calls) == 1 else [1.0, float("nan")]))

    found = best_of(2, policy, moody, prompts(2), [1, 2]).media
    assert found[0].equal(calls[0].media[1])
    assert found[1].equal(calls[1].media[0])


def test_a_reward_that_compares_is_shown_one_sample_of_each_prompt_at_a_time():
    shown = []

    class Comparing:
        compares = True

        def __call__(self, samples):
            shown.append([prompt.text for prompt in samples.prompts])
            return reward(samples)

    asked, policy = prompts(3), parts(steps=2).policy
    found = best_of(4, policy, Comparing(), asked, [1, 2, 3])
    assert shown == [[prompt.text for prompt in asked]] * 4
    assert found.seeds == best_of(4, policy, reward, asked, [1, 2, 3]).seeds


def test_no_more_samples_are_drawn_at_a_time_than_there_are_prompts():
    policy, drawn = parts(steps=2).policy, []

    class Watched:
        def sample(self, prompts, seeds):
            drawn.append([prompt.text for prompt in prompts])
            return policy.sample(prompts, seeds)

    asked = prompts(3)
    best_of(4, Watched(), reward, asked, [1, 2, 3])
    assert [text for some in drawn for text in some] == [prompt.text for prompt in asked for _ in range(4)]
    assert {len(one) for one in drawn} == {3}
