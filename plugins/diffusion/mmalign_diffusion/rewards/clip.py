"""CLIP score: how well a picture fits its prompt (Hessel et al., arXiv:2104.08718; neither scaled nor clipped here)."""

from typing import Self

import torch
from torch import Tensor

from mmalign.records import Samples
from mmalign_diffusion.rewards.openclip import OpenClip


class ClipScore:
    """Cosine between the CLIP embeddings of picture and prompt, in [-1, 1]; 0.2 to 0.35 is usual for real models.

    Of a video it is the mean over its frames. Differentiable with respect to the picture.

    model, pretrained: as open_clip names them (`open_clip.list_pretrained()`); downloaded when first used.
    path: a folder with an open_clip model instead, or `package:relative/path` in an installed package.
    """

    def __init__(self, model: str = "ViT-L-14", pretrained: str = "openai", path: str | None = None):
        self.clip = OpenClip(model, pretrained, path)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.clip.to(device)
        return self

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`."""
        if len(samples) == 0:
            return samples.media.new_zeros(0)
        images, texts = self.clip.images(samples.media), self.clip.texts(samples.texts)
        return torch.einsum("b...d,bd->b...", images, texts).reshape(len(samples), -1).mean(dim=1)
