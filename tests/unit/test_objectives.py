"""Objectives against hand values and the invariants of methods-diffusion 11, in float64."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError
from mmalign.objectives import alignprop, diffusion_dpo, dpo, draft, drtune, flow_dpo, refl, reward_gradient, sft, sides
from mmalign.records import Prompt
from mmalign.samplers import gradient as plans
from unit.toy import gradient, pairs, parts, paths, prompts, rng

KINDS = list(paths())


def at_reference(kind: str = "epsilon"):
    made = parts(kind)
    for weight in made.policy.network.adapter.parameters():
        weight.data.zero_()
    return made


def dpo_terms(made, batch, seed=0):
    return dpo.terms(made, batch, rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.1, 5000.0])
def test_at_the_reference_the_loss_is_log_two(kind, beta):
    found = dpo.loss(**dpo_terms(at_reference(kind), pairs(4)), beta=beta)
    assert_close(found.values, torch.full((4,), math.log(2), dtype=torch.float64), atol=1e-6, rtol=0)
    assert found.metrics["accuracy"] == 0


def test_the_official_factor_is_half_of_beta_times_the_mean():
    """-log sigma(-beta/2 [(m_w - r_w) - (m_l - r_l)]) with m, r mean squared errors, written out by hand."""
    made, batch = parts(), pairs(3)
    rows = made.policy.encode([*batch["prompt"]] * 2, [*batch["chosen"], *batch["rejected"]], rng())
    draw = made.policy.draw(rows, rng(5), copies=2)
    x_t = made.policy.model.path.add_noise(rows.latents, draw.noise, draw.t)

    def errors():
        return (made.policy.model.predict(x_t, draw.t, rows.condition) - draw.noise).square().flatten(1).mean(1)

    m = errors()
    with made.policy.reference():
        r = errors()
    (m_w, m_l), (r_w, r_l) = m.chunk(2), r.chunk(2)
    by_hand = -torch.nn.functional.logsigmoid(-(5000 / 2) * ((m_w - r_w) - (m_l - r_l)))
    log_ratios = made.policy.log_likelihood(rows, draw).sum() + r / 2
    found = diffusion_dpo.loss(*log_ratios.chunk(2))
    assert_close(found.values, by_hand)


def test_gradient_at_the_reference_is_a_quarter_of_beta():
    errors = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    m_w, m_l = errors.chunk(2)
    diffusion_dpo.loss(-0.5 * m_w, -0.5 * m_l, beta=100.0).values.mean().backward()
    assert errors.grad.tolist() == [100 / 4 / 2] * 2 + [-100 / 4 / 2] * 2


def test_swapping_sides_negates_the_margin_exactly():
    batch = pairs(4)
    swapped = {**batch, "chosen": batch["rejected"], "rejected": batch["chosen"]}
    one, other = (dpo.loss(**dpo_terms(parts(), b)) for b in (batch, swapped))
    assert_close(one.metrics["margin"], -other.metrics["margin"], atol=1e-15, rtol=0)
    assert ((one.values + other.values) >= 2 * math.log(2)).all()


def test_equal_sides_leave_no_gradient():
    batch = pairs(3)
    made = parts()
    found = dpo.loss(**dpo_terms(made, {**batch, "rejected": batch["chosen"]}), beta=5000)
    assert_close(found.values, torch.full((3,), math.log(2), dtype=torch.float64))
    assert_close(gradient(made, found.values.mean()), torch.zeros(10, dtype=torch.float64), atol=1e-12, rtol=0)


def test_adding_a_constant_to_both_sides_changes_nothing():
    a, b = torch.randn(2, 5, dtype=torch.float64)
    assert_close(dpo.loss(a, b).values, dpo.loss(a + 3, b + 3).values)


def test_mean_with_beta_is_sum_with_beta_over_d():
    made, batch = parts(), pairs(3)
    found = dpo_terms(made, batch)
    d = math.prod(made.policy.model.latent_shape)
    summed = {name: value * d for name, value in found.items()}
    assert_close(dpo.loss(**found, beta=50.0).values, dpo.loss(**summed, beta=50.0 / d).values)


def test_pairs_do_not_feel_each_other():
    """Fused batches: the loss of the whole is the loss of its parts, given the same draws."""
    batch, made = pairs(4), parts()
    whole = made.policy.encode([*batch["prompt"]] * 2, [*batch["chosen"], *batch["rejected"]], rng())
    draw = made.policy.draw(whole, rng(1), copies=2)
    fused = made.policy.log_likelihood(whole, draw).values
    for side in (slice(0, 4), slice(4, 8)):
        rows = type(whole)(whole.latents[side], {k: v[side] for k, v in whole.condition.items()})
        split = made.policy.log_likelihood(rows, type(draw)(draw.t[side], draw.noise[side])).values
        assert_close(split, fused[side])


def test_prompt_dropout_takes_the_words_and_leaves_the_pictures(monkeypatch):
    seen = []
    monkeypatch.setattr(diffusion_dpo.paired, "terms", lambda parts, batch, rng: seen.extend(batch["prompt"]))
    asked = [Prompt("a cat", {"size": 3}, images=["cat.png"])]
    diffusion_dpo.terms(None, {"prompt": asked}, rng(3), prompt_dropout=1.0)
    assert seen == [Prompt("", {"size": 3}, images=["cat.png"])]


def test_prompt_dropout_of_one_asks_for_nothing():
    batch = pairs(3)
    made = parts()
    dropped = diffusion_dpo.terms(made, batch, rng(3), prompt_dropout=1.0)
    other = diffusion_dpo.terms(made, {**batch, "prompt": batch["prompt"][::-1]}, rng(3), prompt_dropout=1.0)
    assert_close(dropped["chosen_logratios"], other["chosen_logratios"])


def test_sft_is_half_the_mean_squared_error():
    made, batch = parts(), pairs(3)
    rows = {"prompt": batch["prompt"], "sample": batch["chosen"]}
    stream = rng(2)
    found = sft.loss(**sft.terms(made, rows, rng(2))).values
    encoded = made.policy.encode(rows["prompt"], rows["sample"], stream)
    draw = made.policy.draw(encoded, stream)
    x_t = made.policy.model.path.add_noise(encoded.latents, draw.noise, draw.t)
    errors = (made.policy.model.predict(x_t, draw.t, encoded.condition) - draw.noise).square()
    assert_close(found, errors.flatten(1).mean(1) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_descending_the_preference_loss_orders_the_pairs(kind):
    """From the reference, where nothing is preferred, one small step along the gradient prefers the chosen."""
    made, batch = at_reference(kind), pairs(4)
    before = dpo.loss(**dpo_terms(made, batch), beta=100.0)
    step = gradient(made, before.values.mean())
    torch.nn.utils.vector_to_parameters(-1e-4 * step / step.norm(), made.policy.network.adapter.parameters())
    after = dpo.loss(**dpo_terms(made, batch), beta=100.0)
    assert before.metrics["margin"] == 0
    assert after.metrics["margin"] > 0
    assert after.values.mean() < before.values.mean()


def test_the_gradient_is_that_of_finite_differences():
    chosen, rejected = torch.randn(2, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dpo.loss(a, b, beta=0.7).values, (chosen, rejected))


def test_half_of_beta_without_the_half_is_the_same():
    """diffusers' script: -log sigma(2500 [(r_w - m_w) - (r_l - m_l)]) is the official 5000 with the half."""
    m_w, m_l, r_w, r_l = 1e-3 * torch.rand(4, 5, generator=rng(), dtype=torch.float64)
    folded = -torch.nn.functional.logsigmoid(2500 * ((r_w - m_w) - (r_l - m_l)))
    assert_close(diffusion_dpo.loss((r_w - m_w) / 2, (r_l - m_l) / 2).values, folded)


def test_flow_dpo_with_the_schedule_is_diffusion_dpo_on_the_noise():
    """beta (1 - t)^2 on velocity errors is beta on the errors of noise = x_t + (1 - t) v; a constant beta is not."""
    made, batch, beta = parts("flow"), pairs(4), 500.0
    policy, path = made.policy, made.policy.model.path
    rows = policy.encode([*batch["prompt"]] * 2, [*batch["chosen"], *batch["rejected"]], rng())
    draw = policy.draw(rows, rng(5), copies=2)
    x_t = path.add_noise(rows.latents, draw.noise, draw.t)

    def noise_errors():
        _, noise = path.split(x_t, draw.t, policy.model.predict(x_t, draw.t, rows.condition))
        return (noise - draw.noise).square().flatten(1).mean(1)

    with torch.no_grad(), policy.reference():
        reference, noise_reference = policy.log_likelihood(rows, draw).sum(), noise_errors()
    chosen, rejected = (policy.log_likelihood(rows, draw).sum() - reference).chunk(2)
    winner, loser = ((noise_reference - noise_errors()) / 2).chunk(2)
    scheduled = beta * (1 - draw.t[:4].double()) ** 2
    assert_close(scheduled * (chosen - rejected), beta * (winner - loser), rtol=1e-6, atol=1e-9)
    assert not (beta * (chosen - rejected)).allclose(beta * (winner - loser))


def test_the_schedule_of_flow_dpo_weighs_each_pair_by_its_time():
    made, batch = parts("flow"), pairs(4)
    constant = flow_dpo.terms(made, batch, rng(5))
    scheduled = flow_dpo.terms(made, batch, rng(5), schedule="(1-t)^2")
    again = rng(5)
    _, draw = sides.encoded(made, batch, again)
    for name, values in constant.items():
        assert_close(scheduled[name], (1 - draw.t[:4]) ** 2 * values, rtol=1e-6, atol=1e-12)


def test_the_schedule_of_flow_dpo_is_for_models_with_times(monkeypatch):
    made = parts("flow")
    monkeypatch.setattr(type(made.policy), "offers", frozenset({"likelihood"}))
    with pytest.raises(UserError, match=r"objective\.schedule"):
        flow_dpo.terms(made, pairs(2), rng(5), schedule="(1-t)^2")


def test_a_pair_costs_one_forward_of_the_policy_and_one_of_the_reference():
    made = parts()
    dpo_terms(made, pairs(3))
    assert [len(x) for x in made.policy.network.inputs] == [6, 6]
    assert made.policy.network.grad_modes == [False, True]


def test_prompts_are_dropped_for_both_sides_of_a_share_of_the_pairs():
    seen = []
    made, batch = parts(), pairs(400)
    encode = made.policy.encode
    made.policy.encode = lambda prompts, media, rng: seen.extend(prompts) or encode(prompts, media, rng)
    diffusion_dpo.terms(made, batch, rng(1))
    texts = [prompt.text for prompt in seen]
    assert texts[:400] == texts[400:]
    assert texts.count("") / 800 == pytest.approx(0.2, abs=0.06)
    assert all(text in ("", prompt.text) for text, prompt in zip(texts[:400], batch["prompt"], strict=True))


def rewards_of(module, made, seed=0, **options):
    return module.terms(made, {"prompt": prompts(3)}, rng(seed), **options)["rewards"]


def unrolled(made, k: int, seed: int = 0):
    """The chain by hand: guided prediction, DDIM, gradient through the last k steps."""
    model = made.policy.model
    grid, texts = model.path.grid(6), [prompt.text for prompt in prompts(3)]
    x = torch.randn(3, *model.latent_shape, generator=rng(seed))
    for i in range(6):
        t, t_next = grid[i].expand(3), grid[i + 1].expand(3)
        with torch.set_grad_enabled(i >= 6 - k):
            out_u = model.predict(x, t, model.condition([""] * 3))
            out_c = model.predict(x, t, model.condition(texts))
            x0, noise = model.path.split(x, t, out_u + 2.0 * (out_c - out_u))
            a, s = model.path.coefficients(t_next)
            x = a[:, None, None, None] * x0 + s[:, None, None, None] * noise
    return made.reward(type("S", (), {"media": model.decode(x)})()).values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_alignprop_with_fixed_truncation_is_draft_is_autograd(kind, k):
    made = parts(kind)
    expected = gradient(made, unrolled(made, k).mean())
    for module, options in ((draft, {"k": k}), (alignprop, {"truncation": k})):
        assert_close(gradient(made, rewards_of(module, made, **options).mean()), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_gradient(kind):
    plain, saving = parts(kind), parts(kind, checkpointing=True)
    for module, options in ((draft, {"k": 4}), (draft, {"k": 1, "renoise": 2}), (drtune, {"k": 3}), (refl, {})):
        one, other = (gradient(made, rewards_of(module, made, **options).mean()) for made in (plain, saving))
        assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_steps_outside_the_plan_make_no_graph():
    made = parts(steps=6)
    rewards_of(draft, made, k=2)
    assert made.policy.network.grad_modes == [False] * 4 + [True] * 2
    assert not made.policy.network.inputs[4].requires_grad


def test_refl_has_one_late_step_and_stops_there():
    for seed in range(10):
        made = parts(steps=8)
        rewards_of(refl, made, seed)
        modes = made.policy.network.grad_modes
        assert modes == [False] * (len(modes) - 1) + [True]
        assert 6 <= len(modes) - 1 <= 7


def test_refl_asks_no_more_than_its_target():
    rewards = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    found = refl.loss(rewards, target=2.0, coefficient=1e-3)
    found.values.sum().backward()
    assert_close(found.values, torch.tensor([1e-3, 0.0, 0.0]))
    assert_close(rewards.grad, torch.tensor([-1e-3, 0.0, 0.0]))


def test_drtune_sends_no_gradient_through_the_input():
    made = parts(steps=10)
    rewards_of(drtune, made, k=3)
    assert not any(x.requires_grad for x in made.policy.network.inputs)
    assert 1 <= sum(made.policy.network.grad_modes) <= 3


def test_drtune_gradient_is_the_sum_of_one_step_jacobians():
    """On the affine sampler x0_hat = sum_i c_i output_i + const, so its gradient is sum_i c_i J_i^T grad r."""
    made = parts("flow", steps=4, guidance_scale=1.0)
    every_step = plans.spaced(4, 4, early=0, first=0)
    found = gradient(made, reward_gradient.terms(made, {"prompt": prompts(3)}, rng(0), every_step)["rewards"].mean())
    model = made.policy.model
    grid = model.path.grid(4)
    x = torch.randn(3, *model.latent_shape, generator=rng(0)).double()
    condition, outputs = model.condition([prompt.text for prompt in prompts(3)]), []
    for i in range(4):
        outputs.append(model.predict(x.detach(), grid[i].expand(3), condition))
        x = x + (grid[i + 1] - grid[i]) * outputs[-1].detach()
    x0 = x.clone().requires_grad_(True)
    scores = made.reward(type("S", (), {"media": model.decode(x0)})()).values.mean()
    (slope,) = torch.autograd.grad(scores, x0)
    weights = list(made.policy.network.adapter.parameters())
    steps = [torch.autograd.grad(o, weights, (grid[i + 1] - grid[i]) * slope) for i, o in enumerate(outputs)]
    by_hand = sum(torch.cat([g.flatten() for g in step]) for step in steps)
    assert_close(found, by_hand, atol=1e-9, rtol=1e-6)


def test_renoising_feeds_nothing_back_into_the_chain():
    made = parts(steps=4)
    assert rewards_of(draft, made, k=1, renoise=2).shape == (9,)
    assert made.policy.network.grad_modes == [False] * 3 + [True] * 3
    assert not any(x.requires_grad for x in made.policy.network.inputs)


def test_renoising_zero_times_is_draft():
    assert_close(rewards_of(draft, parts(), k=1, renoise=0), rewards_of(draft, parts(), k=1))


@pytest.mark.parametrize("truncation", ["normal", "uniform"])
def test_the_random_truncation_is_never_nothing_and_never_everything(truncation):
    drawn = {alignprop.first_step(12, truncation, rng(seed)) for seed in range(300)}
    assert min(drawn) >= 1
    assert max(drawn) == 11
    assert len(drawn) > 3


def test_the_normal_truncation_is_the_authors_at_fifty_steps():
    drawn = torch.tensor([alignprop.first_step(50, "normal", rng(seed)) for seed in range(2000)]).double()
    assert drawn.mean().item() == pytest.approx(41.3, abs=0.5)  # N(42, 5), cut to whole steps below 50


def test_alignprop_measures_the_distance_to_its_target():
    rewards = torch.tensor([4.0, 12.0])
    assert alignprop.loss(rewards, target=10.0).values.tolist() == pytest.approx([0.06, 0.02])
    assert alignprop.loss(rewards).values.tolist() == pytest.approx([-0.04, -0.12])
    assert reward_gradient.loss(rewards).values.tolist() == [-4.0, -12.0]


def test_descending_raises_the_reward():
    made = parts(steps=4)
    optimizer = torch.optim.SGD(made.policy.network.adapter.parameters(), lr=1.0)
    before = rewards_of(draft, made, k=4).mean()
    for _ in range(5):
        optimizer.zero_grad()
        reward_gradient.loss(rewards_of(draft, made, k=4)).values.mean().backward()
        optimizer.step()
    assert rewards_of(draft, made, k=4).mean() > before


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (draft, {"k": 0}),
        (draft, {"k": 7}),
        (draft, {"k": 2, "renoise": 1}),
        (drtune, {"k": 9}),
        (alignprop, {"truncation": 7}),
    ],
)
def test_impossible_depths_are_refused(module, options):
    with pytest.raises(UserError, match=r"objective\."):
        rewards_of(module, parts(steps=6), **options)


def test_spaced_steps_always_leave_one_with_gradient():
    for seed in range(50):
        stream = rng(seed)
        plan = plans.spaced(
            10, 3, int(torch.randint(1, 5, (), generator=stream)), int(torch.randint(0, 3, (), generator=stream))
        )
        assert plan.trained
        assert max(plan.trained) <= plan.stop
