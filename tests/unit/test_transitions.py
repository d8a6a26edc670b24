"""DDIM with noise: the paper's variance, the marginal kept, nothing drawn at the clean end, and what diffusers computes."""

import itertools

import pytest
import torch
from torch.testing import assert_close
from unit.toy import SHAPE, ToyModel, alphas, paths, prompts, rng

from mmalign.maths.paths import VP
from mmalign.maths.transitions import Sde, step
from mmalign.processes.denoising import DenoisingPolicy, Sampling

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
