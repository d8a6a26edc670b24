"""Every objective's options, and the defaults that its paper or its framework takes (the section of the specs beside it)."""

import pytest

from mmalign import UserError, options
from mmalign.builtin.parts import mmalign_objectives
from mmalign.objectives import contrast

PAIRED = {"units": "sum", "dense": 1.0, "scale": None}
ASKED = {"better": contrast.BETTER, "worse": contrast.WORSE}

CRITIC = {"value_weight": 0.1, "whiten_rewards": False, "length": "mean"}

DEFAULTS = {
    "dpo": {"beta": 0.1, "label_smoothing": 0.0, "margin": 0.0, **PAIRED},  # lvlm 5.1
    "hinge": {"beta": 0.05, **PAIRED},  # lvlm 5.1, RSO
    "robust": {"beta": 0.1, "flip_rate": 0.1, **PAIRED},
    "ipo": {"beta": 0.1, **PAIRED, "units": "mean"},  # lvlm 5.2
    "exo": {"beta": 0.1, "label_smoothing": 1e-3, **PAIRED},  # lvlm 5.6
    "discopop": {"beta": 0.05, "temperature": 0.05, **PAIRED},  # lvlm 5.6
    "nca": {"beta": 0.01, **PAIRED},  # lvlm 5.4
    "bco": {"beta": 0.01, "shift": True, **PAIRED},  # lvlm 5.4
    "sppo": {"beta": 1e-3, **PAIRED},  # lvlm 5.4
    "apo": {"beta": 0.1, "towards": "zero", **PAIRED},
    "anchor": {"beta": 0.1, "delta": 0.0, **PAIRED},  # lvlm 3.14
    "mdpo": {"beta": 0.1, "delta": 0.0, "units": "sum"},  # lvlm 3.14
    "povid": {"beta": 0.1, "units": "sum"},  # lvlm 3.12
    "rpo": {"beta": 0.01, "eta": 0.005, **PAIRED},  # lvlm 5.5
    "cream": {"beta": 0.1, "units": "sum"},
    "simpo": {"beta": 2.0, "margin": 1.0, "dense": 1.0},  # lvlm 5.3, Llama-3 base
    "cpo": {"beta": 0.1, "alpha": 1.0, "dense": 1.0},  # lvlm 5.3
    "ld-dpo": {"beta": 0.1, "label_smoothing": 0.0, "margin": 0.0, "alpha": 0.5},  # lvlm 5.3
    "orpo": {"weight": 0.1, "dense": 1.0},  # lvlm 5.3
    "kto": {"beta": 0.1, "desirable": 1.0, "undesirable": 1.0},  # lvlm 5.4
    "rlhf-v": {"beta": 0.5, "dense": 5.0, "units": "mean"},  # lvlm 3.4
    "tdpo": {"beta": 0.1, "alpha": 0.5, "version": 2},  # lvlm 5.8
    "tis-dpo": {"beta": 0.1, "label_smoothing": 0.0, "margin": 0.0, "k": 1.0, "lowest": -0.5, "highest": 1.5, **ASKED},
    "t-reg": {"beta": 0.1, "alpha": 0.25, **ASKED},  # lvlm 5.8
    "diffusion-dpo": {"beta": 5000.0, "prompt_dropout": 0.2},  # diffusion 2.1
    "flow-dpo": {"beta": 500.0, "schedule": "constant", "scale": None},  # diffusion 8.2
    "sft": {},
    "rwr": {"temperature": 5.0},  # diffusion 5.2
    "flow-rwr": {"limit": 5.0},  # diffusion 8.3
    "nft": {"beta": 1.0, "limit": 5.0},  # diffusion 8.10
    "superhf": {"weight": 0.35},  # lvlm 7.8
    "spin": {"beta": 0.1, "label_smoothing": 0.0, "margin": 0.0, "units": "sum"},  # lvlm 7.6
    "grpo": {"spread": "group", "length": "own", "beta": 0.0, "clip_low": 0.2, "clip_high": 0.2, "estimator": "k3"},
    "dr-grpo": {"beta": 0.0, "clip_low": 0.2, "clip_high": 0.2, "estimator": "k3"},
    "flow-grpo": {"spread": "batch", "clip": 1e-4, "beta": 0.04},  # diffusion 8.5
    "grpo-guard": {"spread": "group", "clip": 2e-6},  # diffusion 8.6
    "dapo": {"clip_low": 0.2, "clip_high": 0.28},
    "gspo": {"spread": "group", "beta": 0.0, "clip_low": 3e-4, "clip_high": 4e-4, "estimator": "k3"},
    "rloo": {"beta": 0.05, "estimator": "k1", "clip": 0.2},
    "remax": {"most": 5.0, "beta": 0.0, "estimator": "k1", "length": "mean"},
    "nash-md": {"mixture": 0.5, "beta": 0.1},  # lvlm 7.6
    "reinforce": {"whiten": True, "length": "own", "beta": 0.0, "estimator": "k1"},
    "ppo": {"gamma": 1.0, "lam": 0.95, "beta": 0.05, "estimator": "k1", "clip": 0.2, "value_clip": 0.2, **CRITIC},
    "ddpo": {"least": 16, "most": 5.0, "clip": 1e-4},  # diffusion 3.1
    "d3po": {"beta": 0.1, "clip": 0.1},  # diffusion 3
    "prdp": {"beta": 3e-5, "clip": 1e-6, "units": "mean"},  # diffusion 3
    "bradley-terry": {"margin": 0.0, "strength": "ignored", "centering": 0.0},
    "btt": {"theta": 5.0},  # diffusion 8.1
    "pal": {},
    "vpl": {"weight": 0.01},
    "reward-regression": {},
    "fdpo": {"beta": 0.5, "good": ["accurate", "faithful"], "bad": ["inaccurate", "hallucinated"]},  # lvlm 3.6
    "segment-classification": {"class_weights": {}},
    "alignprop": {"target": None, "coefficient": 0.01, "truncation": "normal", "drift": 0.0},  # diffusion 4.1
    "draft": {"k": 1, "renoise": 0, "drift": 0.0},  # diffusion 4.2
    "refl": {"target": 2.0, "coefficient": 1e-3, "window": [0.75, 1.0], "drift": 0.0},  # diffusion 4.3
    "drtune": {"k": 3, "early_stop": True, "drift": 0.0},  # diffusion 4.4
}


@pytest.mark.parametrize("spec", list(mmalign_objectives()), ids=lambda spec: spec.name)
def test_the_options_have_the_papers_defaults(spec):
    if spec.name == "weighted-sum":  # says what it sums, or nothing
        with pytest.raises(UserError, match="losses: missing"):
            options.complete(spec, {})
    else:
        found = {option.name: option.default for option in options.described(spec) if not option.required}
        assert found == DEFAULTS[spec.name]
