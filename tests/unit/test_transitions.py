"""Stochastic steps: the papers' variances and means, marginals kept, nothing drawn at the clean end, and what diffusers
computes; their log-probabilities and divergences."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mmalign.maths.paths import VP, Flow, expand
from mmalign.maths.transitions import ODE, Sde, Transition, step
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from unit.toy import SHAPE, ToyModel, alphas, paths, prompts, rng

B = 4
T, NEXT, CLEAN = torch.full((B,), 601), torch.full((B,), 401), torch.full((B,), -1)


def tensors(n: int) -> torch.Tensor:
    return torch.randn(n, B, *SHAPE, generator=rng(), dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_what_the_mean_loses_in_noise_is_what_the_step_draws(eta):
    """σ² = η² (1-ᾱ')/(1-ᾱ) (1-ᾱ/ᾱ'), and the mean keeps sqrt(1-ᾱ'-σ²) of the noise."""
    path, (x0, noise, z) = VP(alphas()), tensors(3)
    alpha, alpha_next = alphas()[601], alphas()[401]
    variance = eta**2 * (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    x_t = path.add_noise(x0, noise, T)
    found = step(path, x_t, T, NEXT, noise, Sde(eta))
    assert_close(found.mean, alpha_next.sqrt() * x0 + (1 - alpha_next - variance).sqrt() * noise)
    assert_close(found.draw(z), found.mean + variance.sqrt() * z)


def test_the_last_step_draws_no_noise():
    path, (x_t, output, z) = VP(alphas()), tensors(3)
    assert_close(step(path, x_t, T, CLEAN, output, Sde(1.0)).draw(z), path.split(x_t, T, output)[0])


def test_full_noise_is_finite_where_rounding_leaves_less_than_nothing():
    """At these levels s'² - σ² is about -1e-10 in float32."""
    path, (x_t, output, z) = VP(torch.tensor([0.9990234971046448, 9.642541408538818e-05]), "v"), tensors(3).float()
    found = step(path, x_t, torch.full((B,), 1), torch.full((B,), 0), output, Sde(1.0)).draw(z)
    assert found.isfinite().all()


@pytest.mark.parametrize(("prediction", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_a_noisy_chain_is_that_of_diffusers(prediction, theirs):
    diffusers = pytest.importorskip("diffusers")
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = diffusers.DDIMScheduler(**settings, clip_sample=False, prediction_type=theirs, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    path = VP(alphas(), prediction, float(alphas()[0]), timesteps=lambda n: scheduler.timesteps)
    x, *z = tensors(11)
    y = x
    for (t, t_next), noise in zip(itertools.pairwise(path.grid(10)), z, strict=True):
        x = step(path, x, t.expand(B), t_next.expand(B), torch.sin(x) * 0.5, Sde(0.7)).draw(noise)
        y = scheduler.step(torch.sin(y) * 0.5, int(t), y, eta=0.7, variance_noise=noise).prev_sample
    assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_a_stochastic_sampler_follows_the_same_steps():
    """The policy's own loop at eta 1: the same numbers as steps by hand with the sample's own generator."""
    policy = DenoisingPolicy(ToyModel(paths()["epsilon"]), Sampling(4, 1.0, eta=1.0))
    model, generator = policy.model, rng(5)
    condition = model.condition([prompts(1)[0].text])
    x = torch.randn(1, *SHAPE, generator=generator)
    for t, t_next in itertools.pairwise(model.path.grid(4)):
        output, t = model.predict(x, t.expand(1), condition).detach(), t.expand(1)
        found = step(model.path, x, t, t_next.expand(1), output, Sde(1.0))
        x = found.draw(torch.randn(1, *SHAPE, generator=generator))
    assert_close(policy.sample(prompts(1), [5]).media, model.decode(x))


# ---- flows


FLOW = Flow()
ON_FLOWS = ["flow-grpo", "dance-grpo", "cps"]
pairs_of_times = st.tuples(st.floats(0.02, 1), st.floats(0.01, 0.99)).map(lambda p: (p[0], p[0] * p[1]))
levels = st.floats(0.01, 1)
few = settings(max_examples=40)


def times(t: float, t_next: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((B,), t, dtype=torch.float64), torch.full((B,), t_next, dtype=torch.float64)


def flow_step(t: float, t_next: float, sde: Sde) -> tuple[torch.Tensor, torch.Tensor, Transition]:
    """x_t, the velocity and the step."""
    x, v = tensors(2)
    return x, v, step(FLOW, x, *times(t, t_next), v, sde)


@few
@given(pairs_of_times, levels)
def test_the_flow_sde_is_its_formula(pair, a):
    """μ = x + [v + σ²/(2t) (x + (1-t) v)] dt, its factored form, and std σ sqrt(-dt), with σ = a sqrt(t / (1-t))."""
    t, t_next = pair
    dt, sigma = t_next - t, a * math.sqrt(t / (1 - t if t < 1 else 1 - t_next))
    x, v, found = flow_step(t, t_next, Sde(a, "flow-grpo"))
    drift = x + (v + sigma**2 / (2 * t) * (x + (1 - t) * v)) * dt
    factored = x * (1 + sigma**2 / (2 * t) * dt) + v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    scale = 1 + abs(sigma**2 * dt / t)
    assert_close(found.mean, drift, rtol=0, atol=1e-12 * scale)
    assert_close(found.mean, factored, rtol=0, atol=1e-12 * scale)
    assert_close(found.std.flatten()[0].item(), sigma * math.sqrt(-dt))


@few
@given(pairs_of_times, levels)
def test_the_step_of_dance_grpo_in_its_published_form(pair, eta):
    """x + v dt - ½ η² s dt with s = -(x - (1-t) x0) / t² is the flow SDE with σ = η."""
    t, t_next = pair
    dt = t_next - t
    x, v, found = flow_step(t, t_next, Sde(eta, "dance-grpo"))
    score = -(x - (1 - t) * (x - t * v)) / t**2
    assert_close(found.mean, x + v * dt - 0.5 * eta**2 * score * dt, rtol=0, atol=1e-12 / t)
    assert_close(found.std.flatten()[0].item(), eta * math.sqrt(-dt))


@few
@given(st.tuples(st.floats(0.1, 0.95), st.floats(0.1, 0.9)).map(lambda p: (p[0], p[0] * p[1])), st.floats(0.1, 0.5))
def test_flow_grpo_at_equal_sigma_is_dance_grpo(pair, eta):
    t, t_next = pair
    _, _, dance = flow_step(t, t_next, Sde(eta, "dance-grpo"))
    _, _, flow = flow_step(t, t_next, Sde(eta / math.sqrt(t / (1 - t)), "flow-grpo"))
    assert_close(flow.mean, dance.mean)
    assert_close(flow.std, dance.std)


@few
@given(pairs_of_times, levels)
def test_cps_keeps_the_coefficients(pair, eta):
    """(1-t') x0 + t' cos(η π/2) noise + t' sin(η π/2) z."""
    t, t_next = pair
    x, v, found = flow_step(t, t_next, Sde(eta, "cps"))
    expected = (1 - t_next) * (x - t * v) + t_next * math.cos(eta * math.pi / 2) * (x + (1 - t) * v)
    assert_close(found.mean, expected, rtol=0, atol=1e-6)
    assert_close(found.std.flatten()[0].item(), t_next * math.sin(eta * math.pi / 2))


@pytest.mark.parametrize("kind", ON_FLOWS)
def test_without_noise_every_kind_is_eulers_step(kind):
    x, v, found = flow_step(0.7, 0.4, Sde(0.0, kind))
    assert found.mean.equal(step(FLOW, x, *times(0.7, 0.4), v, ODE).mean)
    assert_close(found.mean, x - 0.3 * v)
    assert found.std.abs().max() == 0


@pytest.mark.parametrize("kind", ON_FLOWS)
def test_no_flow_draws_noise_onto_clean_data(kind):
    x, v, found = flow_step(0.2, 0.0, Sde(0.9, kind))
    assert found.std.abs().max() == 0
    assert_close(found.mean, x - 0.2 * v)


def test_flow_grpo_starts_as_its_code_does():
    """At t = 1 the denominator is 1 - t'."""
    _, _, found = flow_step(1.0, 0.9, Sde(0.7, "flow-grpo"))
    assert_close(found.std.flatten()[0].item(), 0.7 * math.sqrt(1 / 0.1) * math.sqrt(0.1))


def test_rows_that_are_not_noisy_take_the_deterministic_step():
    (x, v), noisy = tensors(2), torch.tensor([True, False, False, True])
    mixed = step(FLOW, x, *times(0.7, 0.4), v, Sde(0.7, "flow-grpo"), noisy)
    _, _, drawn = flow_step(0.7, 0.4, Sde(0.7, "flow-grpo"))
    assert mixed.mean[noisy].equal(drawn.mean[noisy])
    assert mixed.mean[~noisy].equal(step(FLOW, x, *times(0.7, 0.4), v).mean[~noisy])
    assert (mixed.std.flatten() > 0).equal(noisy)


# ---- marginals, exactly: for data N(0, 1) a step multiplies x by a number and adds noise, so variances follow by hand


def variance_along(path, grid: torch.Tensor, sde: Sde, output) -> list[float]:
    """The variances along the grid, right at its start, where `output(x, t)` is the exact prediction for data N(0, 1)."""
    variances = [sum(coefficient**2 for coefficient in path.coefficients(grid[:1]))]
    for t, t_next in itertools.pairwise(grid[:, None]):
        one = torch.ones(1, 1, dtype=torch.float64)
        found = step(path, one, t, t_next, output(one, t), sde)
        variances.append((found.mean**2 * variances[-1] + found.std**2).flatten())
    return [variance.item() for variance in variances]


def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return expand((2 * t - 1) / ((1 - t) ** 2 + t**2), x) * x


@pytest.mark.parametrize(
    ("kind", "eta"), [("flow-grpo", 0.7), ("flow-grpo", 0.3), ("dance-grpo", 0.3), ("dance-grpo", 1.0)]
)
def test_the_sdes_of_flows_keep_the_marginals(kind, eta):
    """At t = 1 itself flow-grpo draws for any length of step as if it was long, which leaves a⁴ / 4 too much."""
    grid = torch.linspace(0.99, 0, 1001, dtype=torch.float64)
    found = variance_along(FLOW, grid, Sde(eta, kind), velocity)
    expected = (1 - grid) ** 2 + grid**2
    assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0.01, atol=0)
    first = variance_along(FLOW, torch.tensor([1, 0.999], dtype=torch.float64), Sde(0.7, "flow-grpo"), velocity)
    assert first[1] - 1 == pytest.approx(0.7**4 / 4, abs=0.01)


@few
@given(st.floats(0.05, 0.95), levels)
def test_cps_loses_the_variance_that_it_is_known_to_lose(t, eta):
    """At fixed t: (1-t)² t² (1 - cos(η π/2))² / V."""
    total, one = (1 - t) ** 2 + t**2, torch.ones(1, 1, dtype=torch.float64)
    at = torch.full((1,), t, dtype=torch.float64)
    found = step(FLOW, one, at, at, velocity(one, at), Sde(eta, "cps"))
    variance = (found.mean**2 * total + found.std**2).item()
    expected = (1 - t) ** 2 * t**2 * (1 - math.cos(eta * math.pi / 2)) ** 2 / total
    assert total - variance == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginals(eta):
    """The exact noise of N(0, 1) data is s x, and every variance is 1."""
    path = VP(alphas())
    grid = torch.arange(999, -1, -1)
    found = variance_along(path, grid, Sde(eta), lambda x, t: path.coefficients_like(t, x)[1] * x)
    assert found[-1] == pytest.approx(1, rel=0.02)


# ---- densities


def test_the_log_prob_at_the_mean_is_the_normalising_constant():
    std = torch.tensor([0.5, 2.0], dtype=torch.float64)[:, None, None]
    found = Transition(torch.zeros(2, 3, 4, dtype=torch.float64), std).log_prob(torch.zeros(2, 3, 4))
    assert_close(found, -std.flatten().log() - math.log(2 * math.pi) / 2)


def test_log_probs_are_means_over_dimensions_of_the_normal_density():
    mean, std, x = torch.randn(B, *SHAPE), torch.rand(B, 1, 1, 1) + 0.1, torch.randn(B, *SHAPE)
    expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(x).mean(dim=(1, 2, 3))
    assert_close(Transition(mean, std).log_prob(x), expected)


@few
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.2, 2))
def test_the_divergence_is_its_integral(a, b, std):
    """And so minus the mean log-ratio under the policy that draws: how far the ratio drifts below 1."""
    x = torch.linspace(a - 9 * std, a + 9 * std, 20001, dtype=torch.float64)[:, None]
    p, r = (Transition(torch.full_like(x, mean), torch.full_like(x, std)) for mean in (a, b))
    integrand = p.log_prob(x).exp() * (p.log_prob(x) - r.log_prob(x))
    assert_close(torch.trapezoid(integrand, x[:, 0]), p.kl(r)[0], rtol=0, atol=1e-9)


@few
@given(st.tuples(st.floats(0.1, 0.95), st.floats(0.1, 0.9)).map(lambda p: (p[0], p[0] * p[1])), st.floats(0.1, 1))
def test_the_divergence_of_flow_grpo_in_velocities(pair, a):
    """|dt|/2 (σ (1-t) / (2t) + 1/σ)² ‖v - v_ref‖², of which ours is the mean over dimensions."""
    t, t_next = pair
    x, v, reference = tensors(3)
    at, sde = times(t, t_next), Sde(a, "flow-grpo")
    found = step(FLOW, x, *at, v, sde).kl(step(FLOW, x, *at, reference, sde))
    sigma = a * math.sqrt(t / (1 - t))
    factor = (t - t_next) / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2
    assert_close(found, factor * (v - reference).square().mean(dim=(1, 2, 3)))


def test_a_divergence_is_nothing_where_both_agree():
    x, v = tensors(2)
    ours = step(FLOW, x, *times(0.7, 0.4), v, Sde(0.7, "flow-grpo"))
    assert ours.kl(ours).abs().max() == 0


@few
@given(st.floats(0.1, 0.9), st.floats(0.2, 1))
def test_the_policy_gradient_of_a_step_has_its_known_coefficient(t, a):
    """∂ log p / ∂v at x' = μ + std z is -(1/a + a/2) sqrt(|dt| (1-t) / t) z, of which ours is the mean over dimensions."""
    x, v, z = tensors(3)
    dt = 0.01
    v.requires_grad_()
    found = step(FLOW, x, *times(t, t - dt), v, Sde(a, "flow-grpo"))
    (slope,) = torch.autograd.grad(found.log_prob(found.draw(z).detach()).sum(), v)
    expected = -(1 / a + a / 2) * math.sqrt(dt * (1 - t) / t) * z / z[0].numel()
    assert_close(slope, expected)
