"""`mmalign sample --guidance`: what is led, by which rewards, and that a weight of 0 is plain sampling, bit by bit."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mmalign import verbs
from mmalign.cli import app
from mmalign.guidance import sampler

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


@hookimpl
def mmalign_guidance():
    yield GuidanceSpec("wrong", Bright, needs=frozenset({"magic"}))


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
    ],
)
def test_what_cannot_lead_is_said(sampled, arguments, given, told, tmp_path):
    with pytest.raises(verbs.UserError, match=told):
        sampled(*arguments, **given)
    assert not list(tmp_path.glob("out-*"))


def test_a_config_s_own_guidance_is_checked_before_anything_is_built(tmp_path, sampled):
    def refused(evaluation, trainer="{steps: 0}"):
        text = CONFIG.format(model="toy", rewards="[bright]", sampling="{steps: 4, guidance_scale: 1.0}")
        text = text.replace("evaluation: {batch_size: 2, seed: 3}", f"evaluation: {evaluation}")
        (tmp_path / "led.yaml").write_text(text.replace("trainer: {steps: 1}", f"trainer: {trainer}"))
        with pytest.raises(verbs.UserError) as caught:
            verbs.open_target(tmp_path / "led.yaml")
        return str(caught.value)

    prompts = "prompts: {type: prompts, path: prompts.txt}, rewards: [bright]"
    assert "without evaluation.guidance there is nothing to do" in refused(f"{{{prompts}}}")
    assert "nothing to lead: add evaluation.prompts" in refused("{guidance: best-of-n}")
    assert "led.yaml:9: evaluation.guidance: 'wrong' needs magic" in refused(f"{{{prompts}, guidance: wrong}}")
    told = refused(f"{{{prompts}, guidance: {{type: reward-gradient, weights: {{blind: 1, brigth: 1}}}}}}")
    assert "evaluation.guidance.weights.blind: 'reward-gradient' needs a reward that is differentiable" in told
    assert "evaluation.guidance.weights.brigth: unknown reward 'brigth', did you mean 'bright'" in told


def test_a_config_s_own_guidance_lends_its_options(tmp_path, sampled):
    """On the command line the same type has the options that it has in the config; another type has its own."""
    given = CONFIG.replace("seed: 3}}", "seed: 3, prompts: prompts.txt, guidance: {{type: best-of-n, n: 6}}}}")
    (tmp_path / "led.yaml").write_text(given.format(model="toy", rewards="[bright]", sampling="{steps: 4}"))
    chosen = verbs.open_target(tmp_path / "led.yaml").chosen
    assert sampler(chosen, "best-of-n", ()).lead.n == 6
    assert sampler(chosen, "{type: best-of-n, n: 2}", ()).lead.n == 2
    assert sampler(chosen, "best-of-n", ["bright=0"]).lead is None
    assert sampler(chosen, "reward-gradient", ()).warnings() == []


def test_guidance_is_listed_and_described():
    listed = CliRunner().invoke(app, ["--no-plugins", "list", "guidance"])
    assert "best-of-n" in listed.stdout
    assert "reward-gradient" in listed.stdout
    described = CliRunner().invoke(app, ["--no-plugins", "describe", "guidance", "best-of-n"])
    assert "weighted sum of rewards is highest" in described.stdout
    assert "--guidance" in CliRunner().invoke(app, ["sample", "--help"], env={"COLUMNS": "200"}).stdout
