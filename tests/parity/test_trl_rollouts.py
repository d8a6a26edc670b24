"""TRL computes the same losses of the same rollouts: GRPO and its variants, RLOO, and what they make of rewards.

Needs trl, which is not among the test tools: pip install 'mmalign[parity]'. TRL's own code runs here, on given
log-probabilities.
"""

import inspect
import re
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from unit.toy_units import Units

from mmalign import options, plugins
from mmalign.maths.advantages import grouped
from mmalign.parts import Parts
from mmalign.records import Experience, LogProbs, Prompt, Rollout, Samples, Scores
from mmalign.rewards.weighted import CheckedReward, WeightedReward

trl = pytest.importorskip("trl", "1.16", reason="trl 1.16 or later is not installed: pip install 'mmalign[parity]'")
grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
rloo_trainer = pytest.importorskip("trl.trainer.rloo_trainer")

CLOSE = {"rtol": 1e-6, "atol": 1e-9}
GROUP, N, TOKENS = 4, 8, 9

SAME = {
    "grpo": ("grpo", {}, (0.2, 0.2)),
    "grpo, other ε": ("grpo", {"clip_low": 0.1, "clip_high": 0.3}, (0.1, 0.3)),
    "bnpo": ("grpo", {"length": "mean"}, (0.2, 0.2)),
    "dr_grpo": ("dr-grpo", {"length": TOKENS}, (0.2, 0.2)),
    "dapo": ("dapo", {}, (0.2, 0.28)),
    "grpo, sequence": ("gspo", {}, (3e-4, 4e-4)),
}
"""TRL's loss type (and level of the ratio) -> our objective, its options and the ε of both."""

NOT_OURS = {"cispo", "sapo", "luspo", "vespo"}


def made() -> tuple[Units, Experience]:
    """Random answers of random lengths to two prompts, a step away from what drew them; scores with a tied group."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, TOKENS + 1, (N, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).double()
    old, moved, other = -torch.rand(3, N, TOKENS, generator=generator, dtype=torch.float64) * 3 * mask
    policy = (old + 0.3 * (moved - moved.mean())) * mask
    scores = torch.randn(N, generator=generator, dtype=torch.float64)
    samples = Samples([Prompt("a")] * GROUP + [Prompt("b")] * GROUP, [str(i) for i in range(N)])
    rollout = Rollout(samples, LogProbs(old, mask), list(range(N)))
    return Units(policy.requires_grad_(), other, mask), Experience(rollout, Scores(scores), GROUP, N)


def ours(name: str, policy: Units, experience: Experience, **given):
    """The mean loss, its gradient to the tokens' log-probabilities, and the advantages."""
    objective = options.bind_objective(plugins.load(installed=False).catalogue.find("objective", name).spec, given)
    parts = Parts(policy, None, [])
    worked_out = objective.advantages(parts, experience)
    batch = {"rollout": experience.rollout, **worked_out}
    loss = objective.loss(**objective.terms(parts, batch, torch.Generator())).values.mean()
    return loss, torch.autograd.grad(loss, policy.policy)[0], worked_out["advantages"][:, 0]


def theirs(trainer: type, policy: Units, inputs: dict, **given):
    """The same of one of TRL's trainers. Answers stand after a prompt of one token."""
    ids, one = policy.mask.long(), torch.ones(N, 1, dtype=torch.long)
    nothing = torch.zeros_like(policy.mask)
    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    settings = {
        "_get_per_token_logps_and_entropies": lambda *rest, **more: (policy.policy, nothing, None),
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "aux_loss_enabled": False,
        "beta": 0.0,
        "current_gradient_accumulation_steps": 1,
        "importance_sampling_level": "token",
        "max_completion_length": TOKENS,
        "off_policy_mask_threshold": None,
        "top_entropy_quantile": 1.0,
        "use_vllm": False,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)},
    }
    inputs = {"prompt_ids": one, "prompt_mask": one, "completion_ids": ids, "completion_mask": policy.mask, **inputs}
    loss = trainer._compute_loss(SimpleNamespace(**{**settings, **given}), None, inputs)
    return loss, torch.autograd.grad(loss, policy.policy)[0]


def grpo(policy: Units, experience: Experience, advantages: torch.Tensor, told: str, clips, **given):
    loss_type, _, level = told.partition(", ")
    inputs = {
        "advantages": advantages,
        "old_per_token_logps": experience.rollout.log_probs.values,
        "ref_per_token_logps": policy.untouched,
        "num_items_in_batch": policy.mask.sum(),
    }
    level = "sequence" if level == "sequence" else "token"
    more = {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "epsilon_low": clips[0],
        "epsilon_high": clips[1],
    }
    return theirs(grpo_trainer.GRPOTrainer, policy, inputs, **more, **given)


@pytest.mark.parametrize("told", SAME)
def test_losses_on_groups_are_trls(told):
    name, given, clips = SAME[told]
    policy, experience = made()
    loss, slope, advantages = ours(name, policy, experience, **given)
    assert slope.abs().sum() > 0
    assert (slope == 0)[policy.mask > 0].any()  # something is clipped
    assert_close((loss, slope), grpo(policy, experience, advantages, told, clips), **CLOSE)


@pytest.mark.parametrize("told", [told for told in SAME if told != "dapo"])
def test_their_divergence_from_the_reference_is_trls(told):
    name, given, clips = SAME[told]
    policy, experience = made()
    loss, slope, advantages = ours(name, policy, experience, beta=0.04, **given)
    assert_close((loss, slope), grpo(policy, experience, advantages, told, clips, beta=0.04), **CLOSE)


def test_no_loss_type_of_trl_is_forgotten():
    source = inspect.getsource(grpo_trainer.GRPOTrainer._compute_loss)
    known = {
        word for names in re.findall(r"loss_type (?:==|in) (.*):", source) for word in re.findall(r'"(\w+)"', names)
    }
    assert known == {told.partition(",")[0] for told in SAME} | NOT_OURS


# ---- what is made of rewards


def their_advantages(scores: torch.Tensor, how: str = "sum_then_normalize", spread: str = "group") -> torch.Tensor:
    """Those lines of TRL's trainer. scores: `[N, K]`, NaN where there is none."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    begin = source.index("        if self.multi_objective_aggregation ==")
    end = source.index("        else:\n", source.index('== "normalize_then_sum"'))
    trainer = SimpleNamespace(
        multi_objective_aggregation=how,
        scale_rewards=spread,
        reward_weights=torch.ones(scores.shape[1], dtype=torch.float64),
        reward_funcs=[None] * scores.shape[1],
    )
    names = {
        "self": trainer,
        "torch": torch,
        "nanstd": grpo_trainer.nanstd,
        "rewards_per_func": scores,
        "num_generations": GROUP,
        "unscorable_mask": scores.isnan().all(dim=1),
        "device": "cpu",
    }
    exec(textwrap.dedent(source[begin:end]), names)
    found: torch.Tensor = names["advantages"]
    return found.nan_to_num(0.0)


def scores(columns: int, hole: int | None = None) -> torch.Tensor:
    found = torch.randn(N, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if hole is not None:
        found[hole] = torch.nan
    return found


@pytest.mark.parametrize("spread", ["group", "batch", "none"])
@pytest.mark.parametrize("hole", [None, 2])
def test_advantages_are_trls(spread, hole):
    given = scores(1, hole)
    assert_close(grouped(given[:, 0], GROUP, spread), their_advantages(given, spread=spread), **CLOSE)


def test_rewards_that_are_normalised_apart_are_trls_gdpo():
    given = scores(3)
    samples = Samples([Prompt("a")] * N, [str(i) for i in range(N)])
    rewards = [CheckedReward(str(k), lambda samples, k=k: given[:, k]) for k in range(3)]
    total = WeightedReward(rewards, [1.0] * 3, ["group"] * 3)(samples, group=GROUP).values
    assert_close(grouped(total, GROUP, "batch"), their_advantages(given, "normalize_then_sum"), **CLOSE)


def test_a_sample_that_one_of_several_rewards_cannot_score_differs():
    """TRL adds up the others, as if the missing one was 0; to us such a sample has no score, and counts nothing."""
    given = scores(2)
    given[0, 0] = torch.nan
    assert their_advantages(given)[0] != 0
    assert grouped(given.sum(dim=1), GROUP)[0] == 0


# ---- RLOO


def test_rloo_is_trls():
    """From the same advantages; those are compared by their golden numbers."""
    policy, experience = made()
    loss, slope, advantages = ours("rloo", policy, experience, beta=0.0)
    old = experience.rollout.log_probs.sum()
    clips = {"epsilon_low": 0.2, "epsilon_high": 0.2}
    inputs = {"advantages": advantages, "old_logps": old}
    assert_close((loss, slope), theirs(rloo_trainer.RLOOTrainer, policy, inputs, **clips), **CLOSE)
