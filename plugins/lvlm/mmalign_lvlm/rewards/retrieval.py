"""Self-retrieval: a caption is good if it finds its own picture among others. Gaur et al. 2024 (No Detail Left Behind),
arXiv:2409.03025.

    r_i = log softmax_j( exp(s) t_i · v_j )[own picture]    over the pictures j of the bag, r <= 0

with t, v CLIP's embeddings of captions and pictures, of length 1, and s its scale. The bag are the different pictures that are
scored together: with `rollouts.batch_size: 100` and one sample a prompt it holds 100. Of a single picture r is 0.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.records import Prompt, Samples, Scores
from mmalign_lvlm import pictures


class SelfRetrieval:
    """How clearly each answer tells its prompt's picture from the others of its bag. A prompt shows one picture.

    path: a CLIP of transformers: a folder, a hub id, or `package:relative/path` in an installed package.
    """

    compares = True

    def __init__(self, path: str = "openai/clip-vit-base-patch32"):
        from transformers import AutoModel, AutoProcessor

        try:
            self.clip: Any = AutoModel.from_pretrained(locate(path)).requires_grad_(False).eval()
            self.processor: Any = AutoProcessor.from_pretrained(locate(path))
        except (OSError, ValueError) as error:
            raise UserError(f"CLIP {path} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from None

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.clip.to(device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]`, at most 0. dimensions: `first`, whether the own picture is the likeliest. Empty answers have no score."""
        if len(samples) == 0:
            return Scores(torch.zeros(0))
        shown, own = bag(samples.prompts)
        given = {"text": list(samples.responses), "images": [pictures.read(_picture(one)) for one in shown]}
        inputs = self.processor(**given, return_tensors="pt", padding=True, truncation=True).to(self.clip.device)
        logits: Tensor = self.clip(**inputs).logits_per_text.float()
        said = torch.tensor([bool(text.strip()) for text in samples.responses])
        first = (logits.argmax(dim=1) == own.to(logits.device)).float().cpu()
        return Scores(torch.where(said, retrieved(logits, own.to(logits.device)).cpu(), torch.nan), {"first": first})


def retrieved(logits: Tensor, own: Tensor) -> Tensor:
    """r, `[B]`. logits: of each caption and picture, `[B, J]`. own: which picture is each caption's, `[B]`."""
    return -F.cross_entropy(logits, own, reduction="none")


def bag(prompts: Sequence[Prompt]) -> tuple[list[Prompt], Tensor]:
    """One prompt for each different picture, and by prompt which of them is its own, `[B]`."""
    places: dict[Any, int] = {}
    kept, own = [], []
    for prompt in prompts:
        picture = _picture(prompt)
        key = id(picture) if isinstance(picture, Tensor) else picture
        if key not in places:
            places[key] = len(kept)
            kept.append(prompt)
        own.append(places[key])
    return kept, torch.tensor(own)


def _picture(prompt: Prompt) -> Any:
    if len(prompt.images) != 1:
        raise UserError(f"prompt '{prompt.text[:60]}' shows {len(prompt.images)} pictures; a caption finds one")
    return prompt.images[0]
