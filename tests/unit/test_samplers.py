"""Samplers as plain functions: guidance, the walk to the data, and what a gradient plan changes (gradients, never values)."""

import pytest
import torch
from torch.testing import assert_close

from mmalign.maths.paths import Flow
from mmalign.maths.transitions import ODE, sde, step
from mmalign.samplers import gradient as plans
from mmalign.samplers.guidance import classifier_free
from mmalign.samplers.walk import end, noisy_steps, times, walk
from unit.toy import SHAPE, gradient, parts, paths, prompts, rng

STEPS, B = 6, 3


def noise_of(seed: int):
    generator = rng(seed)
    return lambda: torch.randn(B, *SHAPE, generator=generator, dtype=torch.float64)


def chain(kind: str = "epsilon"):
    """A guided prediction and what a sampler of six steps needs beside it."""
    made = parts(kind, STEPS)
    model = made.policy.model
    condition = model.condition([prompt.text for prompt in prompts(B)])
    denoise = classifier_free(model.predict, condition, model.unconditional(B), 2.0)
    return made, denoise, model.path, noise_of(0)(), model.path.grid(STEPS)


def walked(denoise, path, x, grid, way=ODE, noise=None):
    """All steps draw noise that can."""
    noisy = noisy_steps(path, grid, way).expand(len(x), -1)
    return end(walk(denoise, path, x, grid, noisy, way, noise and (lambda draws: noise())))


def told(x, t, condition):
    return x * condition["c"]


def test_guidance_goes_on_from_unconditional_to_conditional():
    c, u = {"c": torch.tensor([[2.0], [3.0]])}, {"c": torch.tensor([[1.0], [1.0]])}
    x, t = torch.ones(2, 1), torch.zeros(2)
    assert classifier_free(told, c, u, 4.0)(x, t).tolist() == [[1 + 4 * 1], [1 + 4 * 2]]
    assert classifier_free(told, c, u, 0.0)(x, t).tolist() == [[1], [1]]


@pytest.mark.parametrize(("unconditional", "scale"), [(None, 4.0), ({"c": torch.zeros(2, 1)}, 1.0)])
def test_without_guidance_the_conditional_answer_comes_back(unconditional, scale):
    c = {"c": torch.tensor([[2.0], [3.0]])}
    assert classifier_free(told, c, unconditional, scale)(torch.ones(2, 1), torch.zeros(2)).equal(c["c"])


def test_a_flow_that_points_at_one_datum_ends_there():
    path, datum = Flow(), torch.full((B, *SHAPE), 0.7, dtype=torch.float64)
    x = noise_of(0)()
    found = walked(lambda x, t: (x - datum) / t[:, None, None, None], path, x, path.grid(5))
    assert_close(found, datum)


@pytest.mark.parametrize("kind", paths())
@pytest.mark.parametrize(("eta", "asked"), [(0.0, 0), (0.5, STEPS - 1)])
def test_noise_is_drawn_only_when_the_sampler_is_noisy(kind, eta, asked):
    """And never for the step onto clean data."""
    _, denoise, path, x, grid = chain(kind)
    draw, drawn = noise_of(1), []
    walked(denoise, path, x, grid, sde(path, eta), lambda: drawn.append(draw()) or drawn[-1])
    assert len(drawn) == asked


@pytest.mark.parametrize("kind", paths())
@pytest.mark.parametrize(
    "plan", [plans.last(STEPS, 1), plans.last(STEPS, STEPS), plans.Plan(frozenset({1, 4}), detach_input=True)]
)
def test_a_plan_changes_no_value(kind, plan):
    _, denoise, path, x, grid = chain(kind)
    way = sde(path, 0.6)
    plain = walked(denoise, path, x, grid, way, noise_of(1))
    assert_close(plans.ddim(denoise, path, x, grid, plan, way, noise_of(1)), plain, rtol=0, atol=0)


def test_a_stop_gives_the_estimate_of_that_step():
    made, denoise, path, x, grid = chain()
    place = x
    for (t, t_next), _ in zip(times(grid, x), range(3), strict=False):
        place = step(path, place, t, t_next, denoise(place, t)).mean
    t = grid[3].expand(B)
    expected = path.split(place, t, denoise(place, t))[0]
    made.policy.network.inputs.clear()
    assert_close(plans.ddim(denoise, path, x, grid, plans.one(3), ODE, noise_of(1)), expected)
    assert len(made.policy.network.inputs) == 4


def test_renoised_samples_are_fresh_and_know_only_their_own_step():
    """Each re-noising draws its own noise, and its gradient is that of one step from a fixed input."""
    made, denoise, path, x, grid = chain()
    samples = plans.ddim(denoise, path, x, grid, plans.last(STEPS, 1, renoise=2), ODE, noise_of(1))
    first, second = samples[B : 2 * B], samples[2 * B :]
    assert not first.allclose(second)
    found = gradient(made, second.square().sum())
    draw = noise_of(1)
    _, noise = draw(), draw()
    t, t_next = grid[-2].expand(B), grid[-1].expand(B)
    x_t = path.add_noise(samples[:B].detach(), noise, t)
    again = step(path, x_t, t, t_next, denoise(x_t, t)).mean
    assert_close(second, again)
    assert_close(found, gradient(made, again.square().sum()))


def test_detached_inputs_still_pass_gradient_along_the_sampler():
    """One early trained step reaches the end although no later prediction carries gradient."""
    made, denoise, path, x, grid = chain("flow")
    samples = plans.ddim(denoise, path, x, grid, plans.Plan(frozenset({1}), detach_input=True), ODE, noise_of(1))
    place = walked(denoise, path, x, grid[:2]).detach()
    output = denoise(place, grid[1].expand(B)) * (grid[2] - grid[1])
    assert_close(gradient(made, samples.sum()), gradient(made, output.sum()))


@pytest.mark.parametrize(("early", "first"), [(0, 0), (0, 15), (19, 3)])
def test_spaced_steps(early, first):
    """Fifty steps and K = 3: a stride of 16, and nothing after the stop."""
    plan = plans.spaced(50, 3, early, first)
    assert plan.stop == 49 - early
    assert plan.detach_input
    assert sorted(plan.trained) == [step for step in (first, first + 16, first + 32) if step <= plan.stop]
