"""From a conditional network to the one function that samplers call."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Condition = Mapping[str, Tensor]
"""What a network is told beside latents and time: named tensors, batch first."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`(x [B, ...], t [B]) -> output [B, ...]`, in the path's parametrisation."""


def classifier_free(
    predict: Callable[[Tensor, Tensor, Condition], Tensor],
    condition: Condition,
    unconditional: Condition | None,
    scale: float,
) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) in one forward of 2B:

        output = u + w (c - u)

    unconditional: the condition of empty prompts; None where guidance is baked into the network.
    scale: w. At 1 only the conditional network is asked.
    """
    if unconditional is None or scale == 1:
        return lambda x, t: predict(x, t, condition)
    both = {name: torch.cat([unconditional[name], condition[name]]) for name in condition}

    def guided(x: Tensor, t: Tensor) -> Tensor:
        u, c = predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return u + scale * (c - u)

    return guided


def between(denoise: Denoise, reference: Denoise, share: float) -> Denoise:
    """What makes of every step the normalised geometric mixture of a model's own (p) and a reference's (r):

        p^(1-c) r^c / Z = N((1 - c) mean_p + c mean_r, σ²)

    Both are Gaussians of the same σ, and a step's mean is affine in the output, so it is the outputs that are mixed.

    share: c; at 0 it is `denoise`, at 1 `reference`.
    """
    return lambda x, t: denoise(x, t).lerp(reference(x, t), share)
