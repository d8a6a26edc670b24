"""Pairs that a language model makes itself: the same collecting as for pictures, with prompts kept whole."""

from types import SimpleNamespace

import torch
from unit.toy_tokens import policy

from mmalign.config import Collect
from mmalign.data.collect import collect
from mmalign.records import Prompt
from mmalign.rewards.weighted import CheckedReward, WeightedReward


def worth_of(text):
    return float(sum(map(ord, text)))


def write(samples, folder):
    paths = [folder / f"{i}.txt" for i in range(len(samples))]
    for path, text in zip(paths, samples.responses, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_a_collected_pair_keeps_the_whole_prompt_and_is_not_made_twice(tmp_path):
    prompts = [Prompt("ab", {"id": 7}, images=("a.png",)), Prompt("c", {"id": 8})]
    worth = CheckedReward("worth", lambda samples: torch.tensor([worth_of(text) for text in samples.responses]))
    made = policy()
    run = SimpleNamespace(
        folder=tmp_path,
        is_main=True,
        parts=SimpleNamespace(
            policy=made, data=[{"prompt": prompt} for prompt in prompts], reward=WeightedReward([worth], [1.0])
        ),
        hook=SimpleNamespace(mmalign_write_samples=write),
        engine=SimpleNamespace(wait=lambda: None),
        config=SimpleNamespace(evaluation=SimpleNamespace(batch_size=8), trainer=SimpleNamespace(seed=0)),
        warn=print,
    )
    options = Collect(samples_per_prompt=6)
    pairs = collect(run, options)
    assert [pairs[i]["prompt"] for i in range(len(pairs))] == prompts
    assert all(worth_of(pairs[i]["chosen"].read_text()) > worth_of(pairs[i]["rejected"].read_text()) for i in range(2))
    encoded = made.encode([pairs[0]["prompt"]], [pairs[0]["chosen"]], torch.Generator())
    assert encoded.mask.sum() == len(pairs[0]["chosen"].read_text()) + 1
    run.parts.policy = None
    assert collect(run, options)[1] == pairs[1]
