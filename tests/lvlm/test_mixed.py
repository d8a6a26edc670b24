"""Answers between a tiny LLaVA and its reference: those of the one at 0, those of the other at 1, whatever adapts it."""

from pathlib import Path

import pytest

from mmalign.processes.tokens import Sampling, TokensPolicy
from mmalign.records import Prompt
from mmalign_lvlm.models import Lora

from .conftest import build, perturbed

SEEDS = [1, 2, 3]


@pytest.mark.parametrize("adapter", [Lora(rank=4), None])
def test_opponents_stand_between_the_policy_and_its_reference(llava: Path, picture_files: list[Path], adapter) -> None:
    made = TokensPolicy(perturbed(build(llava, adapter=adapter)), Sampling(max_new_tokens=6))
    prompts = [
        Prompt("what is this", images=(picture_files[0],)),
        Prompt("is this a red circle", images=(picture_files[1],)),
        Prompt("what is there and what is this"),
    ]
    own = made.sample(prompts, SEEDS)
    assert made.mixed(prompts, SEEDS, 0.0).responses == own.responses
    with made.reference():
        untouched = made.sample(prompts, SEEDS)
    assert made.mixed(prompts, SEEDS, 1.0).responses == untouched.responses
    assert own.responses != untouched.responses
    assert made.sample(prompts, SEEDS).responses == own.responses  # and nothing is left behind
