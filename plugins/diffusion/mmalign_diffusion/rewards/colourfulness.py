"""Colourfulness of a picture as people see it (Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images").

    M = sqrt(σ_rg² + σ_yb²) + 0.3 sqrt(μ_rg² + μ_yb²),    rg = R - G,    yb = (R + G)/2 - B

over the pixels, whose values are 0 to 255. People call 0 not, 15 slightly, 33 moderately, 45 averagely, 59 quite, 82 highly and
109 extremely colourful.
"""

import torch
from torch import Tensor

from mmalign.records import Samples

_SMALLEST = 1e-6
"""Keeps the root's gradient finite where a picture is grey."""


class Colourfulness:
    """M, 0 to about 150. Of a video it is the mean over its frames. Differentiable; prompts do not matter."""

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`."""
        if len(samples) == 0:
            return samples.media.new_zeros(0)
        red, green, blue = (255 * samples.media.float()).unbind(dim=-3)
        opponents = torch.stack([red - green, (red + green) / 2 - blue]).flatten(-2)
        deviation = opponents.var(dim=-1, correction=0).sum(dim=0)
        mean = opponents.mean(dim=-1).square().sum(dim=0)
        score = (deviation + _SMALLEST).sqrt() + 0.3 * (mean + _SMALLEST).sqrt()
        return score.reshape(len(samples), -1).mean(dim=1)
