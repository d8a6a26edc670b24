"""Where the arguments of objectives on preferences come from, and how scores agree with what was preferred."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.maths.agreement import accuracy, tie_calibrated_accuracy
from mmalign.objectives.labels import by_head
from mmalign.parts import Batch, Parts
from mmalign.records import Loss


def pairs(parts: Parts, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """Scores of the first and of the second sample and the preferences, `[B, K]`, from one forward, and K dimensions."""
    names = parts.policy.heads.names
    first, second = both(parts, batch, rng)
    preferences = by_head(batch["preferences"], names, first)
    return {"first": first, "second": second, "preferences": preferences, "dimensions": names}


def both(parts: Parts, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """What every head gives the first and the second sample, `[B, K]` each, from one forward and under the same noise."""
    policy = parts.policy
    encoded = policy.encode([*batch["prompt"], *batch["prompt"]], [*batch["first"], *batch["second"]])
    first, second = policy.scores(policy.noised(encoded, rng, copies=2)).chunk(2)
    return first, second


def judged(values: Tensor, gaps: Tensor, preferences: Tensor, dimensions: Sequence[str]) -> Loss:
    """A loss and how often scores agree with preferences, without and with ties; by dimension if there are several.

    gaps: first minus second, `[B, K]`.
    """
    gaps = gaps.detach()
    metrics = {
        "accuracy": accuracy(gaps, preferences),
        "accuracy_with_ties": tie_calibrated_accuracy(gaps, preferences),
    }
    for k, name in enumerate(dimensions if len(dimensions) > 1 else ()):
        metrics[f"accuracy/{name}"] = accuracy(gaps[:, k], preferences[:, k])
        metrics[f"accuracy_with_ties/{name}"] = tie_calibrated_accuracy(gaps[:, k], preferences[:, k])
    return Loss(values, {**metrics, "margin": (gaps * preferences.nan_to_num()).mean()})
