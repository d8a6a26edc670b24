"""What tests of pictures and of videos ask of tiny pipelines alike."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from mmalign.processes.denoising import DenoisingPolicy
from mmalign.records import LogProbs, Media, Prompt
from mmalign_diffusion.models.pipeline import PipelineModel

Model = TypeVar("Model", bound=PipelineModel)


def saved(save: Callable[[str, Path], Path], made: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, saved when first asked for."""
    return cache(lambda family: save(family, made.mktemp(family)))


def adapted(build: Callable[[Path], Model], folder: Callable[[str], Path]) -> Callable[[str], Model]:
    """A family's model with LoRA matrices that change its predictions. Tests leave it as they found it."""
    return cache(lambda family: perturbed(build(folder(family))))


@torch.no_grad()
def perturbed(model: Model) -> Model:
    """The same model, its trainable weights moved away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.weights.trainable().values():
        weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def latents(model: Any, n: int = 2, seed: int = 0) -> Tensor:
    """Noise in the shape of a model's latents."""
    return torch.randn(n, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def likelihoods(
    policy: DenoisingPolicy, prompts: Sequence[Prompt], media: Sequence[Media]
) -> tuple[LogProbs, LogProbs]:
    """The policy's and the reference's, at one shared draw."""
    rng = torch.Generator().manual_seed(0)
    encoded = policy.encode(prompts, media, rng)
    draw = policy.draw(encoded, rng)
    with policy.reference(), torch.no_grad():
        reference = policy.log_likelihood(encoded, draw)
    return policy.log_likelihood(encoded, draw), reference
