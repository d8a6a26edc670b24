"""Aesthetic score: what people would give a picture from 1 to 10, read off its CLIP embedding (LAION, version 2)."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.records import Samples
from mmalign_diffusion.rewards.openclip import OpenClip

WIDTHS = (768, 1024, 128, 64, 16, 1)
DROPOUT = (0.2, 0.2, 0.1)


class Aesthetic:
    """Linear layers on the normalised CLIP ViT-L/14 embedding of the picture; usually 4 to 7. Prompts do not matter.

    Of a video it is the mean over its frames. Differentiable with respect to the picture. There is no activation between the
    layers, so it is one affine map.

    path: the predictor's weights, for example `sac+logos+ava1-l14-linearMSE.pth` of christophschuhmann's
        improved-aesthetic-predictor; `.safetensors` works as well. `package:relative/path` names an installed package.
    clip_path: a folder with an open_clip model of embedding width 768; None downloads OpenAI's ViT-L/14.
    """

    def __init__(self, path: str, clip_path: str | None = None):
        self.head = new_head()
        _fill(self.head, path)
        self.head.requires_grad_(False).eval()
        self.clip = OpenClip("ViT-L-14", "openai", clip_path)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.clip.to(device)
        self.head.to(device)
        return self

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`."""
        if len(samples) == 0:
            return samples.media.new_zeros(0)
        score: Tensor = self.head(self.clip.images(samples.media))
        return score.reshape(len(samples), -1).mean(dim=1)


def new_head() -> nn.Sequential:
    """The untrained predictor `[B, 768]` to `[B, 1]`, its layers numbered as in the published weights."""
    layers: list[nn.Module] = []
    for index, (width, following) in enumerate(pairwise(WIDTHS)):
        layers.append(nn.Linear(width, following))
        layers += [nn.Dropout(share) for share in DROPOUT[index : index + 1]]
    return nn.Sequential(*layers)


def _fill(head: nn.Sequential, path: str) -> None:
    file = Path(locate(path))
    if not file.is_file():
        raise UserError(
            f"{path}: no such file. Download sac+logos+ava1-l14-linearMSE.pth from "
            "github.com/christophschuhmann/improved-aesthetic-predictor and give its path"
        )
    try:
        state = _read(file)
        head.load_state_dict({name.removeprefix("layers."): weight for name, weight in state.items()})
    except Exception as error:
        # Unpicklers raise whatever they like on a file that is none.
        raise UserError(f"{path}: not the weights of the aesthetic predictor ({error})") from None


def _read(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        return load_file(file)
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
