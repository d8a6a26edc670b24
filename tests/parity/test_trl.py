"""TRL computes the same losses of the same log-probabilities, in value and gradient; where it differs, a test says how.

Needs trl, which is not among the test tools: pip install 'mmalign[parity]'. TRL's own code runs here, on a model that answers
with given log-probabilities.
"""

import inspect
import re
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from unit.toy_units import Units

from mmalign import options, plugins
from mmalign.objectives import cpo, kto, orpo, simpo
from mmalign.parts import Parts
from mmalign.records import LogProbs

trl = pytest.importorskip("trl", "1.16", reason="trl 1.16 or later is not installed: pip install 'mmalign[parity]'")
dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
kto_trainer = pytest.importorskip("trl.trainer.kto_trainer")

CLOSE = {"rtol": 1e-6, "atol": 1e-9}
PAIRS, TOKENS = 5, 9

SAME = {
    "sigmoid": ("dpo", {}),
    "hinge": ("hinge", {}),
    "ipo": ("ipo", {}),
    "exo_pair": ("exo", {"label_smoothing": 1e-3}),
    "nca_pair": ("nca", {}),
    "robust": ("robust", {"flip_rate": 0.2}),
    "bco_pair": ("bco", {"shift": False}),
    "sppo_hard": ("sppo", {}),
    "apo_zero": ("apo", {"towards": "zero"}),
    "apo_down": ("apo", {"towards": "down"}),
    "discopop": ("discopop", {"temperature": 0.05}),
    "sigmoid_norm": ("dpo", {"units": "mean"}),
}
"""TRL's loss type -> our objective and its options."""

NOT_OURS = {"aot", "aot_unpaired"}
DIFFERENT = {"sft"}


def units(pairs: int = PAIRS) -> Units:
    """Random answers of random lengths, winners first."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, TOKENS + 1, (2 * pairs, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).double()
    policy, reference = -torch.rand(2, 2 * pairs, TOKENS, generator=generator, dtype=torch.float64) * 3 * mask
    return Units(policy.requires_grad_(), reference, mask)


def ours(name: str, made: Units, **given) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss, and its gradient to the tokens' log-probabilities."""
    objective = options.bind_objective(plugins.load(installed=False).catalogue.find("objective", name).spec, given)
    batch = {"prompt": [None], "chosen": [None], "rejected": [None]}
    loss = objective.loss(**objective.terms(Parts(made, None, []), batch, torch.Generator())).values.mean()
    return loss, torch.autograd.grad(loss, made.policy)[0]


def answers(log_probs: torch.Tensor) -> SimpleNamespace:
    """What a model of TRL gives: log-probabilities, and what it logs."""
    nothing = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def stand_in(made: Units, **given) -> SimpleNamespace:
    """What the loss of TRL's trainers sees of their trainer."""
    model = torch.nn.Identity()
    model.is_gradient_checkpointing = False
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    settings = {
        "model": model,
        "ref_model": lambda **inputs: answers(made.untouched * made.mask),
        "accelerator": accelerator,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "label_smoothing": 0.0,
        "use_weighting": False,
        "loss_weights": [1.0],
        "beta": 0.1,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**{**settings, **given})


def theirs(made: Units, *loss_types: str, **given) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of TRL's DPO trainer. Answers stand after a prompt of one token."""
    mask = torch.cat([torch.zeros(len(made.mask), 1, dtype=torch.float64), made.mask], dim=1).long()
    inputs = {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    trainer = stand_in(made, loss_types=loss_types, **given)
    loss = dpo_trainer.DPOTrainer._compute_loss(
        trainer, lambda **given: answers(made.policy * made.mask), inputs, False
    )
    return loss, torch.autograd.grad(loss, made.policy)[0]


@pytest.mark.parametrize("loss_type", SAME)
def test_losses_on_pairs_are_trls(loss_type):
    name, given = SAME[loss_type]
    smoothing = {"exo_pair": 1e-3, "robust": 0.2}.get(loss_type, 0.0)
    made = units()
    found, expected = ours(name, made, beta=0.1, **given), theirs(made, loss_type, label_smoothing=smoothing)
    assert found[1].abs().sum() > 0
    assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_ld_dpo_is_trls(alpha):
    made = units()
    assert_close(ours("ld-dpo", made, beta=0.1, alpha=alpha), theirs(made, "sigmoid", ld_alpha=alpha), **CLOSE)


def test_no_loss_type_of_trl_is_forgotten():
    known = set(re.findall(r'loss_type == "(\w+)"', inspect.getsource(dpo_trainer.DPOTrainer._compute_loss)))
    assert known == set(SAME) | NOT_OURS | DIFFERENT


def test_supervision_of_winners_differs_in_what_is_averaged():
    """TRL averages over all tokens of a batch, so that long answers count more; we average within each answer first."""
    alone = units(1)
    losses = {"sft": {"weight": 1.0}}
    assert_close(ours("weighted-sum", alone, losses=losses), theirs(alone, "sft"), **CLOSE)
    many = units()
    ratio = ours("weighted-sum", many, losses=losses)[0] / theirs(many, "sft")[0]
    assert abs(ratio - 1) > 1e-3


def test_a_mix_of_losses_is_trls():
    """MPO's weights, on one pair, for the reason above."""
    made = units(1)
    losses = {"dpo": {"weight": 0.8}, "bco": {"weight": 0.2, "beta": 0.1, "shift": False}, "sft": {"weight": 1.0}}
    expected = theirs(made, "sigmoid", "bco_pair", "sft", loss_weights=[0.8, 0.2, 1.0])
    assert_close(ours("weighted-sum", made, losses=losses), expected, **CLOSE)


def test_trl_ignores_label_smoothing_in_its_sigmoid_loss():
    made = units()
    assert_close(theirs(made, "sigmoid", label_smoothing=0.2), ours("dpo", made, beta=0.1), **CLOSE)
    assert not ours("dpo", made, beta=0.1, label_smoothing=0.2)[0].isclose(theirs(made, "sigmoid")[0])


def test_bco_differs_in_the_shift_that_trl_drops():
    made = units()
    assert not ours("bco", made, beta=0.1)[0].isclose(theirs(made, "bco_pair")[0])


# ---- KTO


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_kto_is_trls(shift):
    """With a reference point above 0, and with one that is clamped there."""
    made, good = units(3), torch.tensor([1, 1, 0, 1, 0, 0])
    mismatched = torch.linspace(-1, 1, 6, dtype=torch.float64) + shift
    mask = torch.cat([torch.zeros(6, 1, dtype=torch.float64), made.mask], dim=1).long()
    trainer = stand_in(
        made,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.3,
        undesirable_weight=0.7,
        _compute_kl_logps=lambda model, batch: mismatched * (model is policy),
    )
    inputs = {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask, "label": good}

    def policy(**inputs):
        return answers(made.policy * made.mask)

    expected = kto_trainer.KTOTrainer._compute_loss(trainer, policy, inputs, False)
    ratios = LogProbs(made.policy - made.untouched, made.mask).sum()
    found = kto.loss(ratios, mismatched, good.double(), beta=0.1, desirable=1.3, undesirable=0.7).values.mean()
    assert_close(found, expected, **CLOSE)
    assert_close(*(torch.autograd.grad(x, made.policy)[0] for x in (found, expected)), **CLOSE)


# ---- without a reference


def without_reference(trainer: str, method: str):
    """A loss of an experimental trainer."""
    module = pytest.importorskip(f"trl.experimental.{trainer}", reason=f"trl.experimental.{trainer} cannot be imported")
    return getattr(getattr(module, f"{trainer.upper()}Trainer"), method)


SIDES = -torch.rand(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.1


def test_simpo_and_cpo_are_trls():
    """CPO without its supervised term, which TRL averages over all tokens of a batch."""
    loss = without_reference("cpo", "cpo_loss")
    settings = {"alpha": 0.0, "beta": 2.0, "label_smoothing": 0.0, "accelerator": SimpleNamespace(device="cpu")}
    simple = SimpleNamespace(loss_type="simpo", simpo_gamma=0.7, **settings)
    assert_close(simpo.loss(*SIDES, beta=2.0, margin=0.7).values, loss(simple, *SIDES)[0], **CLOSE)
    plain = SimpleNamespace(loss_type="sigmoid", **settings)
    assert_close(cpo.loss(*SIDES, SIDES[0], beta=2.0, alpha=0.0).values, loss(plain, *SIDES)[0], **CLOSE)


def test_the_odds_ratio_of_orpo_is_trls():
    """TRL computes it in float32, and takes the supervised term from all tokens of a batch."""
    loss = without_reference("orpo", "odds_ratio_loss")
    expected = loss(SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu")), *SIDES)[0]
    found = orpo.loss(*SIDES, weight=0.3).values + SIDES[0]
    assert_close(found.float(), -expected, rtol=1e-5, atol=1e-6)
