"""Paths: what goes in comes out, conversions of methods-diffusion 0.2 and 0.3, and the steps between times."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from mmalign.maths.paths import VP, Flow, expand
from mmalign.maths.transitions import Sde, step
from unit.toy import SHAPE, alphas, paths, rng


def drawn(path, n: int = 5):
    generator = rng(1)
    x0 = torch.randn(n, *SHAPE, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, *SHAPE, dtype=torch.float64, generator=generator)
    t = path.draw_times(n, generator)
    return x0, noise, t.double() if t.is_floating_point() else t


@pytest.mark.parametrize("kind", paths())
def test_the_target_splits_into_what_was_mixed(kind):
    path = paths()[kind]
    x0, noise, t = drawn(path)
    x_t = path.add_noise(x0, noise, t)
    x0_hat, noise_hat = path.split(x_t, t, path.target(x0, noise, t))
    assert_close(x0_hat, x0)
    assert_close(noise_hat, noise)


def test_vp_is_variance_preserving_and_ends_clean():
    path = VP(alphas())
    a, s = path.coefficients(torch.tensor([0, 500, 999, -1]))
    assert_close(a**2 + s**2, torch.ones(4, dtype=torch.float64))
    assert (a[-1], s[-1]) == (1, 0)


def test_errors_of_epsilon_v_and_x0_relate_as_in_the_spec():
    path = VP(alphas(), "v")
    x0, noise, t = drawn(path)
    x_t, v = path.add_noise(x0, noise, t), path.target(x0, noise, t)
    wrong = v + 0.3
    x0_hat, noise_hat = path.split(x_t, t, wrong)
    a, s = (expand(c, x0) for c in path.coefficients(t))
    assert_close((noise - noise_hat) ** 2, a**2 * (v - wrong) ** 2)
    assert_close((x0 - x0_hat) ** 2, s**2 * (v - wrong) ** 2)


def test_errors_of_velocity_relate_as_in_the_spec():
    path = Flow()
    x0, noise, t = drawn(path)
    x_t, v = path.add_noise(x0, noise, t), path.target(x0, noise, t)
    x0_hat, noise_hat = path.split(x_t, t, v + 0.3)
    assert_close((noise - noise_hat) ** 2, (1 - expand(t, x0)) ** 2 * 0.3**2 * torch.ones_like(x0))
    assert_close((x0 - x0_hat) ** 2, expand(t, x0) ** 2 * 0.3**2 * torch.ones_like(x0))


@pytest.mark.parametrize("kind", paths())
def test_a_perfect_network_walks_the_line_between_its_data_and_its_noise(kind):
    path = paths()[kind]
    x0, noise, _ = drawn(path)
    grid = path.grid(7)
    x = path.add_noise(x0, noise, grid[0].expand(5))
    for t, t_next in itertools.pairwise(grid):
        t, t_next = t.expand(5), t_next.expand(5)
        x = step(path, x, t, t_next, path.target(x0, noise, t)).mean
        assert_close(x, path.add_noise(x0, noise, t_next), atol=1e-9, rtol=1e-9)
    assert_close(x, x0, atol=1e-9, rtol=1e-9)


def test_on_a_flow_the_step_is_eulers():
    path = Flow()
    x0, _, t = drawn(path)
    v, t_next = torch.randn_like(x0), t * 0.7
    assert_close(step(path, x0, t, t_next, v).mean, x0 + expand(t_next - t, x0) * v)


def test_eta_one_is_the_ddpm_posterior():
    path = VP(alphas())
    t, t_next = torch.tensor([800]), torch.tensor([799])
    beta = 1 - alphas()[800] / alphas()[799]
    posterior = beta * (1 - alphas()[799]) / (1 - alphas()[800])
    assert_close(Sde(1.0).spread(path, t, t_next)[1] ** 2, posterior[None])


def test_a_noisy_step_keeps_the_marginal():
    """x_0 = 0: the marginal at t' is N(0, s'^2), whatever eta."""
    path = VP(alphas())
    n = 200_000
    t, t_next = torch.tensor([800]).expand(n), torch.tensor([600]).expand(n)
    noise = torch.randn(n, 1, dtype=torch.float64, generator=rng(0))
    fresh = torch.randn(n, 1, dtype=torch.float64, generator=rng(1))
    x_t = path.add_noise(torch.zeros(n, 1, dtype=torch.float64), noise, t)
    for eta in (0.0, 0.5, 1.0):
        x = step(path, x_t, t, t_next, noise, Sde(eta)).draw(fresh)
        assert x.std().item() == pytest.approx(path.coefficients(t_next)[1][0].item(), rel=5e-3)


@pytest.mark.parametrize("kind", paths())
def test_grids_descend_from_noise_to_clean(kind):
    path = paths()[kind]
    grid = path.grid(10)
    assert len(grid) == 11
    assert (grid.diff() < 0).all()
    assert path.coefficients(grid[-1:])[1] == 0


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_steps_agree_with_diffusers(spacing, prediction):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    theirs.set_timesteps(8)
    ours = VP(
        theirs.alphas_cumprod,
        {"v_prediction": "v", "sample": "x0"}.get(prediction, "epsilon"),
        timesteps=lambda n: theirs.timesteps,
    )
    x = y = torch.randn(2, *SHAPE, generator=rng(2))
    grid = ours.grid(8)
    for t, t_next in itertools.pairwise(grid):
        output = torch.sin(x) * 0.5
        x = step(ours, x, t.expand(2), t_next.expand(2), output).mean
        y = theirs.step(torch.sin(y) * 0.5, t, y).prev_sample
    assert_close(x, y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", paths())
def test_whatever_a_network_says_splits_into_what_mixes_to_x_t(kind):
    path = paths()[kind]
    x_t, output, t = drawn(path)
    assert_close(path.add_noise(*path.split(x_t, t, output), t), x_t)


def test_v_and_x0_say_what_epsilon_says():
    """v = (noise - s x_t) / a: the same statement in three languages splits alike."""
    x0, noise, t = drawn(VP(alphas()))
    x_t = VP(alphas()).add_noise(x0, noise, t)
    a, s = (expand(c, x0) for c in VP(alphas()).coefficients(t))
    expected = VP(alphas(), "epsilon").split(x_t, t, noise)
    assert_close(VP(alphas(), "v").split(x_t, t, (noise - s * x_t) / a), expected)
    assert_close(VP(alphas(), "x0").split(x_t, t, x0), expected)


def test_velocity_is_the_slope_of_the_path():
    path, step = Flow(), 1e-6
    x0, noise, t = drawn(path)
    slope = (path.add_noise(x0, noise, t + step) - path.add_noise(x0, noise, t - step)) / (2 * step)
    assert_close(slope, path.target(x0, noise, t), atol=1e-8, rtol=0)


def test_vp_times_are_uniform_over_all_indices():
    counts = VP(alphas(5)).draw_times(5000, rng()).bincount(minlength=5)
    assert len(counts) == 5
    assert counts.min() > 900
    assert counts.max() < 1100


@pytest.mark.parametrize(("sampling", "spread"), [("uniform", 12**-0.5), ("logit-normal", 0.2083)])
def test_flow_times_are_uniform_or_the_sigmoid_of_a_normal(sampling, spread):
    times = Flow(time_sampling=sampling).draw_times(20_000, rng())
    assert times.min() >= 0
    assert times.max() <= 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.01)
    assert times.std().item() == pytest.approx(spread, abs=0.01)
    if sampling == "logit-normal":
        assert times.logit().std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", paths())
def test_half_precision_latents_are_mixed_in_float32(kind):
    path = paths()[kind]
    x0, noise, t = drawn(path)
    low = path.add_noise(x0.bfloat16(), noise.bfloat16(), t)
    assert low.dtype == torch.float32
    assert_close(low.double(), path.add_noise(x0.bfloat16().double(), noise.bfloat16().double(), t))


def test_the_clean_end_may_keep_some_noise():
    path = VP(alphas(), final_alpha_cumprod=float(alphas()[0]))
    assert path.coefficients(torch.tensor([-1])) == path.coefficients(torch.tensor([0]))


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="v_prediction"):
        VP(alphas(), "v_prediction")


def test_mixing_and_v_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = VP(alphas(), "v")
    x0, noise, t = drawn(ours)
    assert_close(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), atol=1e-5, rtol=0)
    assert_close(ours.target(x0, noise, t), theirs.get_velocity(x0, noise, t), atol=1e-5, rtol=0)
