"""Rollouts of the denoising process: replay equals rollout, each sample is on its own, and only noisy steps are units."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmalign import UserError, checkpoint, hookimpl, loop
from mmalign.maths.transitions import step
from mmalign.options import check_callable
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.samplers.walk import noisy_steps, trained_steps
from unit import toy_runs
from unit.toy import SHAPE, ToyModel, gradient, parts, paths, prompts

STEPS, SEEDS = 5, [3, 4, 5, 6]
WAYS = [("epsilon", "ddim", 1.0), ("v", "ddim", 0.6), ("x0", "ddim", 1.0)]
WAYS += [("flow", kind, eta) for kind, eta in (("flow-grpo", 0.7), ("dance-grpo", 0.3), ("cps", 0.8))]
ways = pytest.mark.parametrize(("path", "kind", "eta"), WAYS)


def policy(path="epsilon", kind=None, eta=1.0, guidance_scale=2.0, checkpointing=False, **options) -> DenoisingPolicy:
    sampling = Sampling(STEPS, guidance_scale, eta=eta, sde=kind, **options)
    return DenoisingPolicy(ToyModel(paths()[path]), sampling, checkpointing)


def slope(made: DenoisingPolicy, value: torch.Tensor) -> torch.Tensor:
    return gradient(Parts(made, None, []), value)


@ways
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("window", [None, 2])
def test_replay_equals_rollout_and_carries_gradient(path, kind, eta, guidance_scale, window):
    made = policy(path, kind, eta, guidance_scale, window=window)
    rollout = made.rollout(prompts(4), SEEDS)
    replayed = made.replay(rollout)
    assert not rollout.log_probs.values.requires_grad
    assert replayed.values.shape == rollout.log_probs.mask.shape == (4, window or STEPS - 1)
    assert_close(replayed.values, rollout.log_probs.values, rtol=0, atol=1e-9)
    assert (replayed.minus(rollout.log_probs).values.exp() - 1).abs().max() < 1e-5
    assert slope(made, replayed.sum().sum()).abs().sum() > 0


@ways
def test_a_rollout_is_what_is_sampled(path, kind, eta):
    for window in (None, 1):
        made = policy(path, kind, eta, window=window)
        assert made.rollout(prompts(4), SEEDS).samples.media.equal(made.sample(prompts(4), SEEDS).media)


@ways
@pytest.mark.parametrize("window", [None, 2])
def test_the_make_up_of_a_batch_changes_no_rollout_and_no_replay(path, kind, eta, window):
    made = policy(path, kind, eta, window=window)
    together, alone = made.rollout(prompts(4), SEEDS), made.rollout(prompts(4)[2:3], SEEDS[2:3])
    assert_close(together.samples.media[2:3], alone.samples.media)
    assert_close(together.log_probs.values[2:3], alone.log_probs.values)
    for name in ("latents", "steps"):
        assert_close(together.units[2][name], alone.units[0][name])
    assert_close(made.replay(together[2:3]).values, made.replay(together).values[2:3])


@ways
def test_log_probs_are_those_of_the_drawing(path, kind, eta):
    """Of the steps by hand, from what each unit says: where it was, where it went and which step it was."""
    made = policy(path, kind, eta, guidance_scale=1.0)
    rollout = made.rollout(prompts(1), SEEDS[:1])
    (unit,), model = rollout.units, made.model
    grid, condition = model.path.grid(STEPS), model.condition(["x"])
    assert unit["steps"].tolist() == list(range(STEPS - 1))
    assert unit["latents"].shape == (STEPS, *SHAPE)
    for i in unit["steps"].tolist():
        x, x_next, t, t_next = (some[i : i + 1] for some in (unit["latents"], unit["latents"][1:], grid, grid[1:]))
        found = step(model.path, x, t, t_next, model.predict(x, t, condition), made.sde)
        squares = ((x_next - found.mean) / found.std).square().sum() / x.numel()
        by_hand = -squares / 2 - found.std.log().sum() - math.log(2 * math.pi) / 2
        assert_close(rollout.log_probs.values[0, i], by_hand.detach(), check_dtype=False)


@pytest.mark.parametrize("window", [None, 2])
def test_where_the_clean_end_is_noisy_the_last_step_draws_but_is_no_unit(window):
    """As with DDPO's schedule, whose last step goes to the first ᾱ of the table: its tiny σ would outweigh all others."""
    model = ToyModel(paths()["epsilon"])
    model.path._alphas_cumprod[-1] = model.path._alphas_cumprod[0]
    model.path.timesteps = lambda steps: torch.linspace(801, 1, steps).round()
    made = DenoisingPolicy(model, Sampling(STEPS, 2.0, eta=1.0, window=window))
    rollout = made.rollout(prompts(40), range(40))
    assert rollout.log_probs.values.shape == (40, window or STEPS - 1)
    assert max(int(unit["steps"].max()) for unit in rollout.units) == STEPS - 2
    assert_close(made.replay(rollout).values, rollout.log_probs.values, rtol=0, atol=1e-6)
    noisy = noisy_steps(model.path, model.path.grid(STEPS), made.sde)
    assert noisy.tolist() == [True] * STEPS
    assert trained_steps(noisy).tolist() == [True] * (STEPS - 1) + [False]


@pytest.mark.parametrize(("path", "eta"), [("epsilon", 0.0), ("flow", 0.0)])
def test_a_deterministic_sampler_has_no_rollouts(path, eta):
    with pytest.raises(UserError, match=r"sampling\.eta: only steps that draw noise have a probability"):
        policy(path, eta=eta).rollout(prompts(1), [0])


def test_one_step_onto_clean_data_has_no_rollout():
    made = DenoisingPolicy(ToyModel(paths()["flow"]), Sampling(1, 1.0, eta=0.7))
    with pytest.raises(UserError, match=r"sampling\.steps to 2 or more"):
        made.rollout(prompts(1), [0])


@pytest.mark.parametrize(("path", "kind"), [("epsilon", "cps"), ("flow", "ddim")])
def test_noise_that_is_not_for_a_model_is_refused_when_it_is_built(path, kind):
    with pytest.raises(UserError, match=rf"sampling\.sde: '{kind}' is not for this model"):
        policy(path, kind)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"sampling\.window: 5 steps that draw noise, but only 4 of 5 do"):
        policy(window=5).rollout(prompts(1), [0])


def test_guidance_is_in_rollout_and_replay_alike():
    """Under guidance the replayed mean is that of the guided prediction: at another scale the log-probs are others."""
    made, other = policy(guidance_scale=3.0), policy(guidance_scale=1.0)
    rollout = made.rollout(prompts(2), SEEDS[:2])
    assert not made.replay(rollout).values.allclose(other.replay(rollout).values)
    made.network.inputs.clear()
    made.replay(rollout)
    assert [len(x) for x in made.network.inputs] == [4] * (STEPS - 1)


def test_windows_lie_anywhere_and_steps_outside_draw_nothing(monkeypatch):
    made, drawn = policy("flow", eta=0.7, window=2), []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(a) or randn(*a, **k))
    rollout = made.rollout(prompts(1) * 40, range(40))
    assert len(drawn) == 40 * (1 + 2)
    assert {tuple(unit["steps"].tolist()) for unit in rollout.units} == {(0, 1), (1, 2), (2, 3)}
    assert all(unit["latents"].shape == (3, *SHAPE) for unit in rollout.units)


@ways
@pytest.mark.parametrize("window", [None, 2])
def test_samples_that_share_their_noise_differ_by_what_their_steps_draw(path, kind, eta, window):
    made = policy(path, kind, eta, window=window)
    rollout = made.rollout(prompts(1) * 3, SEEDS[:3], starts=[SEEDS[0]] * 3)
    first, *others = rollout.units
    for other in others:
        assert other["steps"].equal(first["steps"])
        assert other["latents"][0].equal(first["latents"][0])
        assert not other["latents"][1].allclose(first["latents"][1], atol=1e-3)
    alone = made.rollout(prompts(1), SEEDS[:1])
    assert_close(first["latents"], alone.units[0]["latents"])  # the first is as if nobody shared
    assert_close(made.replay(rollout).values, rollout.log_probs.values, rtol=0, atol=1e-9)


def test_a_window_of_all_steps_is_no_window():
    """But for the numbers that place it, which there is only one way to do."""
    whole = policy("flow", eta=0.7, window=STEPS - 1).rollout(prompts(2), SEEDS[:2])
    assert [unit["steps"].tolist() for unit in whole.units] == [list(range(STEPS - 1))] * 2


def window(made: DenoisingPolicy, updates: int) -> list[list[int]]:
    """The noisy steps of two samples of a buffer that is made after so many updates."""
    made.updates = updates
    return [unit["steps"].tolist() for unit in made.rollout(prompts(2), SEEDS[:2]).units]


@pytest.mark.parametrize(
    ("size", "every", "stride", "starts"),
    [
        (2, 1, 1, [0, 1, 2, 0, 1]),
        (2, 2, 1, [0, 0, 1, 1, 2, 2, 0]),
        (2, 1, 2, [0, 2, 0, 2]),
        (1, 1, 2, [0, 2, 0]),
        (3, 1, 5, [0, 0, 0]),
        (4, 1, 1, [0, 0, 0]),
    ],
)
def test_a_window_moves_on_from_the_noisiest_steps_and_begins_again(size, every, stride, starts):
    """Of four steps that draw noise and are no last ones: l = s (floor(k / tau) mod P)."""
    made = policy("flow", eta=0.7, window=size, window_every=every, window_stride=stride)
    for updates, start in enumerate(starts):
        assert window(made, updates) == [list(range(start, start + size))] * 2


def test_a_window_that_moves_draws_no_number_but_noise():
    """So where it covers all steps it is no window, bit for bit, as none at a random place is."""
    whole = policy("flow", eta=0.7, window=STEPS - 1, window_every=3).rollout(prompts(2), SEEDS[:2])
    assert whole.samples.media.equal(policy("flow", eta=0.7).rollout(prompts(2), SEEDS[:2]).samples.media)


def test_a_window_that_moves_needs_one_that_fits():
    with pytest.raises(UserError, match=r"sampling\.window: 5 steps that draw noise, but only 4 of 5 do"):
        policy(window=5, window_every=2).rollout(prompts(1), [0])
    with pytest.raises(UserError, match=r"sampling\.window_every: there is no window that could move"):
        policy(window_every=2).rollout(prompts(1), [0])
    assert len(policy(window_every=2).sample(prompts(1), [0])) == 1  # an evaluation's `window: null`
    wrong = {"window": 0, "window_every": 0, "window_stride": 0}
    assert {key for key, _ in check_callable(Sampling, wrong)} == wrong.keys()


def test_a_resumed_run_goes_on_with_the_window_of_its_update(tmp_path):
    """Two updates a buffer and a move every two: resumed within the third buffer, the fourth is as if nothing had been."""

    class Watch:
        def __init__(self):
            self.steps = []

        @hookimpl
        def mmalign_rollout(self, run, rollout):
            self.steps += [(run.step, *unit["steps"].tolist()) for unit in rollout.units[:1]]

    def ready(name, watch, restored=({}, {})):
        model = policy("flow", eta=0.7, window=2, window_every=2)
        reward = WeightedReward([CheckedReward("light", lambda samples: samples.media.mean(dim=(1, 2, 3)))], [1.0])
        given = {"plugins": (watch,), "rewards": reward, "model": model, "restored": restored}
        (tmp_path / name).mkdir()
        return toy_runs.made(tmp_path / name, "grpo", **given, steps=8, batch_size=8)

    whole, rest = Watch(), Watch()
    run = ready("whole", whole)
    run.steps = 5
    loop.train(run)
    folder, run.steps = run.checkpoint(), 8
    loop.train(run)
    assert whole.steps == [(0, 0, 1), (2, 1, 2), (4, 2, 3), (6, 0, 1)]
    again = ready("rest", rest, checkpoint.read(folder, 0))
    assert again.parts.policy.updates == 4  # of the buffer that is half used
    loop.train(again)
    assert rest.steps == whole.steps[3:]
    expected, found = run.parts.policy.state_dict(), again.parts.policy.state_dict()
    assert all(found[key].equal(expected[key]) for key in expected)


def test_parts_replay_as_the_whole_does():
    made = policy("flow", eta=0.7)
    rollout = made.rollout(prompts(3), SEEDS[:3])
    whole, grads = made.replay(rollout).values, 0
    for units in (slice(0, 1), slice(1, 3), slice(3, None)):
        part = made.part(rollout, units)
        replayed = made.replay(part)
        assert_close(replayed.values, whole[:, units], rtol=0, atol=1e-12)
        assert part.log_probs.values.equal(rollout.log_probs.values[:, units])
        assert len(part.units[0]["steps"]) == replayed.values.shape[1]
        grads = grads + slope(made, replayed.sum().sum())
    assert_close(grads, slope(made, made.replay(rollout).sum().sum()))


def test_checkpointing_changes_no_gradient():
    found = []
    for checkpointing in (False, True):
        made = policy(checkpointing=checkpointing)
        found.append(slope(made, made.replay(made.rollout(prompts(2), SEEDS[:2])).sum().sum()))
    assert_close(*found, rtol=0, atol=1e-12)


def test_units_are_tensors_that_come_back_from_disk(tmp_path):
    made = policy(window=2)
    rollout = made.rollout(prompts(2), SEEDS[:2])
    torch.save(rollout.units, tmp_path / "units.pt")
    assert (tmp_path / "units.pt").stat().st_size < 16_000
    for unit, back in zip(rollout.units, torch.load(tmp_path / "units.pt", weights_only=True), strict=True):
        assert {name: value.tolist() for name, value in unit.items()} == {n: v.tolist() for n, v in back.items()}


def test_the_reference_replays_too_and_the_policy_comes_back():
    made = policy()
    rollout = made.rollout(prompts(2), SEEDS[:2])
    with torch.no_grad(), made.reference():
        reference = made.replay(rollout).values
    assert not reference.requires_grad
    assert not reference.allclose(rollout.log_probs.values)
    assert_close(made.replay(rollout).values, rollout.log_probs.values, rtol=0, atol=1e-9)


def test_the_divergence_is_minus_the_mean_drift_of_the_log_ratio():
    """Where the policy itself draws x', the mean of its log-ratio is the KL: checked in closed form, z² -> 1 and z -> 0."""
    made = policy("flow", eta=0.7)
    rollout = made.rollout(prompts(2), SEEDS[:2])
    found = made.replay_divergence(rollout)
    ours = [one.mean for one, _ in made._transitions(rollout)]
    with torch.no_grad(), made.reference():
        theirs = [(one.mean, one.std) for one, _ in made._transitions(rollout)]
    expected = [((a - b) ** 2 / (2 * s**2)).mean(dim=(1, 2, 3)) for a, (b, s) in zip(ours, theirs, strict=True)]
    assert_close(found.values, torch.stack(expected, dim=1))
    assert (found.values > 0).all()
    assert slope(made, found.sum().sum()).abs().sum() > 0
    for weight in made.network.adapter.parameters():
        weight.data.zero_()
    assert made.replay_divergence(rollout).values.abs().max() == 0


@ways
@pytest.mark.parametrize("window", [None, 2])
def test_mixed_samples_are_the_policys_at_0_and_the_references_at_1(path, kind, eta, window):
    made = policy(path, kind, eta, window=window)
    ours = made.sample(prompts(3), SEEDS[:3]).media
    with made.reference():
        reference = made.sample(prompts(3), SEEDS[:3]).media
    assert made.mixed(prompts(3), SEEDS[:3], 0.0).media.equal(ours)
    assert made.mixed(prompts(3), SEEDS[:3], 1.0).media.equal(reference)
    between = made.mixed(prompts(3), SEEDS[:3], 0.5)
    assert between.seeds == SEEDS[:3]
    assert not between.media.allclose(ours)
    assert not between.media.allclose(reference)


@ways
def test_each_mixed_step_is_of_the_normalised_geometric_mean(path, kind, eta, monkeypatch):
    """At every step the density that is drawn from is c log r + (1 - c) log p, up to a constant."""
    made, seen = policy(path, kind, eta), []

    def watching(path, x, t, t_next, *rest):
        seen.append((x, t, t_next, step(path, x, t, t_next, *rest)))
        return seen[-1][-1]

    monkeypatch.setattr("mmalign.samplers.walk.step", watching)
    made.mixed(prompts(1), SEEDS[:1], 0.3)
    denoise = made._denoise(prompts(1))
    for x, t, t_next, found in seen[:-1]:  # the last one draws nothing
        p = step(made.model.path, x, t, t_next, denoise(x, t), made.sde)
        with made.reference():
            r = step(made.model.path, x, t, t_next, denoise(x, t), made.sde)
        places = found.mean + 3 * found.std * torch.randn(8, *SHAPE, dtype=torch.float64)
        constant = 0.3 * r.log_prob(places) + 0.7 * p.log_prob(places) - found.log_prob(places)
        assert_close(constant, constant[:1].expand(8))
        assert not p.mean.allclose(r.mean)


@pytest.mark.parametrize("path", paths())
def test_without_noise_samples_do_not_depend_on_the_kind(path):
    """η = 0 is one deterministic sampler, bitwise."""
    kinds = [None, "ddim"] if path != "flow" else [None, "flow-grpo", "dance-grpo", "cps"]
    first, *others = [policy(path, kind, eta=0.0).sample(prompts(2), SEEDS[:2]).media for kind in kinds]
    assert all(first.equal(other) for other in others)
    assert first.equal(parts(path, STEPS).policy.sample(prompts(2), SEEDS[:2]).media)


def test_an_update_makes_what_it_favours_likelier():
    made = policy("flow", eta=0.7)
    rollout = made.rollout(prompts(2), SEEDS[:2])
    optimiser = torch.optim.SGD(made.network.adapter.parameters(), lr=1e-3)
    made.replay(rollout).sum().sum().neg().backward()
    optimiser.step()
    assert made.replay(rollout).sum().sum() > rollout.log_probs.sum().sum()
