"""Where things are in frames, by an open-vocabulary detector of transformers: OWLv2, OWL-ViT, Grounding DINO."""

from collections.abc import Sequence
from math import ceil
from typing import Any, Self

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.locations import locate


class Detector:
    """Finds things by their names. threshold: how sure it must be of a box, in [0, 1].

    path: a folder, a hub id, or `package:relative/path` in an installed package.
    """

    def __init__(self, path: str, threshold: float):
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        try:
            self.processor: Any = AutoProcessor.from_pretrained(locate(path))
            self.model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(locate(path))
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"detector {path} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from None
        self.model.requires_grad_(False).eval()
        self.threshold = threshold

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def boxes(self, frames: Tensor, thing: str) -> list[Tensor]:
        """By frame of `[F, 3, H, W]` in [0, 1] the boxes `[N, 4]` of a thing: x1, y1, x2, y2 in pixels."""
        levels = (frames.float().nan_to_num(0).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        given = {"images": list(levels), "text": [[thing]] * len(levels), "input_data_format": "channels_last"}
        inputs = self.processor(**given, return_tensors="pt", truncation=True).to(self.model.device)
        sizes = [levels.shape[1:3]] * len(levels)
        found = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=self.threshold, target_sizes=sizes
        )
        return [one["boxes"] for one in found]

    def covered(self, frames: Tensor, things: Sequence[str]) -> Tensor:
        """`[H, W]`: whether a pixel is in a box of any of the things in any frame, wholly or in part."""
        height, width = frames.shape[-2:]
        inside = torch.zeros(height, width, dtype=torch.bool, device=frames.device)
        for box in (box for thing in things for boxes in self.boxes(frames, thing) for box in boxes.tolist()):
            x1, y1, x2, y2 = (max(0, edge) for edge in box)
            inside[int(y1) : ceil(y2), int(x1) : ceil(x2)] = True
        return inside
