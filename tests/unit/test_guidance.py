"""`mmalign sample --guidance`: what is led, by which rewards, and that a weight of 0 is plain sampling, bit by bit."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mmalign import verbs
from mmalign.cli import app
from mmalign.guidance import Lead, sampler

PLUGIN = '''
import torch
from unit.toy import ToyModel, paths
from unit.toy_tokens import ToyTokens

from mmalign import GuidanceSpec, ModelSpec, RewardSpec, hookimpl


class Toy(ToyModel):
    """A denoiser."""

    def __init__(self):
        super().__init__(paths()["flow"])

    def to(self, device):
        return self


class Says(ToyTokens):
    """A language model."""

    def to(self, device):
        return self


class Bright:
    """Brightness."""

    def __init__(self, power: float = 1.0):
        self.power = power

    def __call__(self, samples):
        return samples.media.mean(dim=(1, 2, 3)) ** self.power


class Letters:
    """How many letters there are."""

    def __call__(self, samples):
        return torch.tensor([float(len(text)) for text in samples.responses])


@hookimpl
def mmalign_models():
    yield ModelSpec("toy", Toy, process="denoising")
    yield ModelSpec("says", Says, process="tokens")


@hookimpl
def mmalign_rewards():
    yield RewardSpec("bright", Bright, differentiable=True)
    yield RewardSpec("blind", Bright)
    yield RewardSpec("letters", Letters)


class Alone:
    """It leads by itself."""

    def __init__(self, weights: dict[str, float] | None = None):
        self.weights = weights


class Needy:
    """It cannot do without a path."""

    def __init__(self, path: str, weights: dict[str, float] | None = None):
        self.path = path


def Again(policy, reward, prompts, seeds):
    assert reward is None
    return policy.sample(prompts, [seed + 1 for seed in seeds])


@hookimpl
def mmalign_guidance():
    yield GuidanceSpec("wrong", Bright, needs=frozenset({"magic"}))
    yield GuidanceSpec("alone", Alone, reward="own")
    yield GuidanceSpec("again", lambda: Again, reward="none")
    yield GuidanceSpec("needy", Needy, reward="own")


@hookimpl
def mmalign_write_samples(samples, folder):
    made = [folder / f"{i:03d}.pt" for i in range(len(samples))]
    for path, one in zip(made, samples.made, strict=True):
        torch.save(one, path)
    return made
'''

CONFIG = """
name: small
plugins: [./toy_plugin.py]
model: {model}
data: {{type: samples, path: nowhere.jsonl}}
objective: sft
rewards: {rewards}
sampling: {sampling}
evaluation: {{batch_size: 2, seed: 3}}
trainer: {{steps: 1}}
"""


@pytest.fixture
def sampled(tmp_path, monkeypatch):
    """Samples a small model: arguments -> its samples and their seeds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_plugin.py").write_text(PLUGIN)
    (tmp_path / "prompts.txt").write_text("ab\nc\nddd\n")

    def draw(*arguments, model="toy", rewards="[bright]"):
        sampling = "{steps: 4, guidance_scale: 1.0}" if model == "toy" else "{max_new_tokens: 6}"
        (tmp_path / "small.yaml").write_text(CONFIG.format(model=model, rewards=rewards, sampling=sampling))
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        files = verbs.sample(tmp_path / "small.yaml", tmp_path / "prompts.txt", out, (), *arguments)
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        return [torch.load(file) for file in files], [row["seed"] for row in rows]

    return draw


def equal(one, other) -> bool:
    return all(a.equal(b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def brightness(made) -> torch.Tensor:
    return torch.stack([one.mean() for one in made])


@pytest.mark.parametrize("guidance", ["reward-gradient", "best-of-n"])
def test_weight_0_is_plain_sampling_bit_by_bit(sampled, guidance):
    plain, seeds = sampled()
    led, same = sampled(guidance, ["bright=0"])
    assert equal(plain, led)
    assert seeds == same == [3, 4, 5]


def test_a_gradient_leads_uphill_as_far_as_its_weight(sampled):
    plain, little, much = (
        brightness(sampled(*given)[0]) for given in ((), *(("reward-gradient", [w]) for w in WEIGHTS))
    )
    assert (plain < little).all()
    assert (little < much).all()


WEIGHTS = ("bright=0.5", "bright=2")


def test_without_weights_the_configs_own_rewards_lead(sampled):
    named, _ = sampled("reward-gradient", ["bright=2"])
    assert equal(named, sampled("reward-gradient", rewards="[{type: bright, weight: 2}]")[0])
    renamed = sampled("reward-gradient", ["sun=2"], rewards="[{type: bright, name: sun, power: 2}]")[0]
    assert not equal(named, renamed)


def test_the_best_of_several_is_listed_with_its_seed(sampled):
    plain, seeds = sampled()
    best, chosen = sampled("{type: best-of-n, n: 6}", ["blind=1"])
    assert (brightness(best) >= brightness(plain)).all()
    assert any(one != other for one, other in zip(seeds, chosen, strict=True))
    assert [one == other for one, other in zip(seeds, chosen, strict=True)] == [
        a.equal(b) for a, b in zip(plain, best, strict=True)
    ]


def test_words_have_a_best_of_several_too(sampled):
    plain, _ = sampled(model="says", rewards="[letters]")
    best, _ = sampled("best-of-n", model="says", rewards="[letters]")
    assert all(len(one) >= len(other) for one, other in zip(best, plain, strict=True))
    assert sum(map(len, best)) > sum(map(len, plain))


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        ((None, ["bright=1"]), {}, "nothing to weigh without --guidance"),
        (("best-of",), {}, "unknown guidance 'best-of', did you mean 'best-of-n'"),
        (("{type: best-of-n, n: 0}",), {}, "n: must be above 0"),
        (("best-of-n", ["bright"]), {}, "'bright' is not of the form REWARD=NUMBER"),
        (("best-of-n", ["bright=much"]), {}, "'bright=much' is not of the form"),
        (("best-of-n", ["brigth=1"]), {}, "unknown reward 'brigth', did you mean 'bright'"),
        (("best-of-n",), {"rewards": "[]"}, "has no `rewards` to be led by"),
        (("reward-gradient", ["blind=1"]), {}, "needs a reward that is differentiable"),
        (("reward-gradient",), {"model": "says"}, "'reward-gradient' needs guided, which model 'says' does not offer"),
        (("wrong",), {}, "'wrong' needs magic"),
        (("needy", ["MQ=0.5"]), {}, r"path: missing.*Write --guidance '\{type: needy, path: \.\.\.\}', or give it to"),
    ],
)
def test_what_cannot_lead_is_said(sampled, arguments, given, told, tmp_path):
    with pytest.raises(verbs.UserError, match=told):
        sampled(*arguments, **given)
    assert not list(tmp_path.glob("out-*"))


def test_a_configs_guidance_lends_its_options_and_rewards(tmp_path, sampled):
    """On the command line the same type has what it has in the config; another type has its own, and the run's rewards."""
    sampled()
    led = "{type: best-of-n, n: 6, rewards: [{type: bright, name: sun, power: 3, weight: 2}]}"
    given = [f"evaluation.guidance={led}", "evaluation.prompts=prompts.txt"]
    chosen = verbs.open_target(tmp_path / "small.yaml", given).chosen

    def powers(lead):
        return [reward.function.power for reward in lead.reward.rewards.rewards]

    for arguments, n, power in (((), 6, 3.0), (["sun=1"], 6, 3.0), (["bright=1"], 6, 1.0)):
        lead = sampler(chosen, "best-of-n", arguments)
        assert (lead.guidance.n, powers(lead)) == (n, [power])
    assert sampler(chosen, "{type: best-of-n, n: 2}", ()).guidance.n == 2
    assert sampler(chosen, "best-of-n", ["sun=0"]) == Lead()
    assert powers(sampler(chosen, "reward-gradient", ())) == [1.0]


def test_a_guidance_may_follow_a_reward_of_its_own(tmp_path, sampled):
    """Its `weights` are an option, which the command line sets too; nothing else leads it."""
    sampled()
    chosen = verbs.open_target(tmp_path / "small.yaml").chosen
    assert sampler(chosen, "alone", ()).guidance.weights is None
    lead = sampler(chosen, "alone", ["MQ=0.5"])
    assert (lead.guidance.weights, lead.reward) == ({"MQ": 0.5}, None)
    with pytest.raises(verbs.UserError, match="'alone' follows a reward of its own: leave `rewards` out"):
        sampler(chosen, "{type: alone, rewards: [bright]}", ())


def test_a_guidance_may_follow_no_reward(sampled):
    """Neither the config's, which it would have by default, nor one that the command line weighs."""
    plain, seeds = sampled()
    again, others = sampled("again", rewards="[bright]")
    assert not equal(again, plain)
    assert others == [seed + 1 for seed in seeds]
    for arguments in (("again", ["bright=1"]), ("{type: again, rewards: [bright]}",)):
        with pytest.raises(verbs.UserError, match=r"rewards\.0: 'again' follows no reward: leave `rewards` out"):
            sampled(*arguments)


def test_guidance_is_listed_and_described():
    listed = CliRunner().invoke(app, ["--no-plugins", "list", "guidance"])
    assert "best-of-n" in listed.stdout
    assert "reward-gradient" in listed.stdout
    described = CliRunner().invoke(app, ["--no-plugins", "describe", "guidance", "best-of-n"])
    assert "weighted sum of rewards is highest" in described.stdout
    assert "--guidance" in CliRunner().invoke(app, ["sample", "--help"], env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize(
    ("guidance", "told"),
    [
        ("{type: best-of, rewards: [bright]}", "unknown guidance 'best-of', did you mean 'best-of-n'"),
        ("{type: best-of-n, n: 0, rewards: [bright]}", "evaluation.guidance.n: must be above 0"),
        ("{type: best-of-n, rewards: [brigth]}", "evaluation.guidance.rewards.0: unknown reward 'brigth'"),
        ("{type: reward-gradient, rewards: [bright, blind]}", "evaluation.guidance.rewards.1: 'reward-gradient' needs"),
        ("{type: wrong, rewards: [bright]}", "evaluation.guidance: 'wrong' needs magic"),
        ("best-of-n", "evaluation.guidance: 'best-of-n' has no `rewards` to be led by"),
        ("{type: alone, rewards: [bright]}", "evaluation.guidance.rewards.0: 'alone' follows a reward of its own"),
    ],
)
def test_what_cannot_lead_an_evaluation_is_said_before_anything_is_built(sampled, tmp_path, guidance, told):
    sampled()
    given = [f"evaluation.guidance={guidance}", "evaluation.prompts=prompts.txt"]
    with pytest.raises(verbs.UserError, match=told):
        verbs.open_target(tmp_path / "small.yaml", given)
