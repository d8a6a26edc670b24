"""DDIM: exact for a perfect network, Euler on a flow, the DDPM variance at eta 1, and what diffusers computes."""

import pytest
import torch
import toy

from mmalign import UserError
from mmalign.maths.paths import VP
from mmalign.maths.transitions import ddim_step, ddpm_std

B = 4
T, NEXT = torch.full((B,), 601), torch.full((B,), 401)


def tensors(n: int) -> torch.Tensor:
    return torch.randn(n, B, *toy.SHAPE, generator=toy.rng(), dtype=torch.float64)


@pytest.mark.parametrize("kind", toy.KINDS)
def test_a_perfect_network_stays_on_the_path(kind):
    path, (x0, noise) = toy.path(kind), tensors(2)
    grid = path.grid(5)
    t, t_next = grid[1].expand(B), grid[3].expand(B)
    stepped = ddim_step(path, path.add_noise(x0, noise, t), t, t_next, path.target(x0, noise, t))
    torch.testing.assert_close(stepped, path.add_noise(x0, noise, t_next), rtol=0, atol=1e-12)


def test_on_a_flow_it_is_the_euler_step():
    path, (x_t, v) = toy.path("velocity"), tensors(2)
    t, t_next = torch.rand(2, B, generator=toy.rng(), dtype=torch.float64)
    stepped = ddim_step(path, x_t, t, t_next, v)
    torch.testing.assert_close(stepped, x_t + (t_next - t)[:, None, None, None] * v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_noise_has_the_papers_variance_and_keeps_the_marginal(eta):
    """σ² = η² (1-ᾱ')/(1-ᾱ) (1-ᾱ/ᾱ'), and what the mean loses in noise is what σ z brings."""
    path, (x0, noise, z) = toy.path("epsilon"), tensors(3)
    alpha, alpha_next = path.coefficients(T)[0] ** 2, path.coefficients(NEXT)[0] ** 2
    variance = (eta**2 * (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))[:, None, None, None]
    x_t = path.add_noise(x0, noise, T)
    mean = ddim_step(path, x_t, T, NEXT, noise, eta)
    torch.testing.assert_close(ddim_step(path, x_t, T, NEXT, noise, eta, z), mean + variance.sqrt() * z)
    kept = (mean - alpha_next.sqrt()[:, None, None, None] * x0) / noise
    torch.testing.assert_close((kept**2 + variance)[:, 0, 0, 0], 1 - alpha_next)


def test_the_last_step_draws_no_noise():
    path, (x_t, output, z) = toy.path("epsilon"), tensors(3)
    clean = torch.full((B,), -1)
    stepped = ddim_step(path, x_t, T, clean, output, 1.0, z)
    torch.testing.assert_close(stepped, path.split(x_t, T, output)[0], rtol=0, atol=1e-12)


def test_full_noise_from_pure_noise_is_finite():
    """With zero terminal signal σ takes all of s', where rounding must not turn a root negative."""
    path = VP(torch.tensor([0.7, 0.3, 0.0]), prediction="v", timesteps=torch.arange)
    x_t, output, z = tensors(3).float()
    stepped = ddim_step(path, x_t, torch.full((B,), 2), torch.full((B,), 1), output, 1.0, z)
    assert bool(stepped.isfinite().all())


def test_a_flow_takes_no_noise():
    path, (x_t, v) = toy.path("velocity"), tensors(2)
    with pytest.raises(UserError, match=r"sampling\.eta.*set it to 0"):
        ddim_step(path, x_t, torch.ones(B), torch.zeros(B), v, eta=0.5)


@pytest.mark.parametrize("kind", toy.KINDS[:3])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_chain_is_that_of_diffusers(kind, eta):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type={"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}[kind],
    )
    scheduler.set_timesteps(10)
    path, model = toy.path(kind), toy.ToyModel(kind)
    assert path.grid(10)[:-1].tolist() == scheduler.timesteps.tolist()
    ours = theirs = tensors(1)[0]
    condition = model.condition(["x"] * B)
    for t, t_next in zip(path.grid(10)[:-1], path.grid(10)[1:], strict=True):
        z = tensors(int(t) % 7 + 1)[-1]
        with torch.no_grad():
            output, expected = (model.predict(x, t.expand(B), condition) for x in (ours, theirs))
        ours = ddim_step(path, ours, t.expand(B), t_next.expand(B), output, eta, z if eta else None)
        theirs = scheduler.step(expected, int(t), theirs, eta=eta, variance_noise=z if eta else None).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_noise_needs_no_more_than_the_two_times():
    """The standard deviation is the DDPM posterior's: β̃ = (1-ᾱ')/(1-ᾱ) β for neighbouring steps."""
    path = toy.path("epsilon")
    t = torch.arange(1, 1 + B)
    alpha, alpha_next = path.coefficients(t)[0] ** 2, path.coefficients(t - 1)[0] ** 2
    beta = 1 - alpha / alpha_next
    posterior = (1 - alpha_next) / (1 - alpha) * beta
    std = ddpm_std(path, torch.zeros(B, *toy.SHAPE, dtype=torch.float64), t, t - 1)
    torch.testing.assert_close(std.flatten() ** 2, posterior)
