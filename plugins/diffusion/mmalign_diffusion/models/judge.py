"""The adapter: an open_clip model that scores pictures beside their prompts, as PickScore and HPS do with CLIP."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.processes.scoring import Encoded, Ends, Heads
from mmalign.records import Media, Prompt
from mmalign_diffusion import pictures
from mmalign_diffusion.rewards.openclip import OpenClip

_HEADS = Heads()
_FILE = "open_clip_model.safetensors"


class JointEmbedding(nn.Module):
    """What CLIP sees in a picture and in its prompt, `[B, 1, 3 D]`: both embeddings and their product, each of mean square 1.

    The product is there because its sum is CLIP's own score of how well the two go together.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """pixels: `[B, 3, H, W]`, normalised. tokens: `[B, T]`."""
        both = [self.clip.encode_image(pixels), self.clip.encode_text(tokens)]
        image, text = (F.normalize(one.float(), dim=-1) * one.shape[-1] ** 0.5 for one in both)
        return torch.cat([image, text, image * text], dim=-1)[:, None]


class ClipJudge:
    """Scores a picture beside its prompt: the heads read the joint embedding of an open_clip model.

    heads: `names` of the values; a picture has no segments, so there are no `classes`.
    model, pretrained: as open_clip names them; downloaded when first used.
    path: a folder with an open_clip model instead, or `package:relative/path` in an installed package.
    train: the heads alone, or "everything", CLIP too.
    """

    def __init__(
        self,
        *,
        heads: Heads = _HEADS,
        model: str = "ViT-L-14",
        pretrained: str = "openai",
        path: str | None = None,
        train: Literal["heads", "everything"] = "heads",
    ):
        if heads.classes:
            raise UserError("heads.classes: they tell segments of a text apart, and a picture has none")
        self.clip = OpenClip(model, pretrained, path)
        self.network: nn.Module = JointEmbedding(self.clip.model.requires_grad_(train == "everything"))
        self.train = train
        self.heads = heads
        with torch.no_grad():
            self.width: int = 3 * self.clip.texts([""]).shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.clip.mean.device

    def to(self, device: torch.device | str) -> Self:
        """Move everything."""
        self.clip.to(device)
        return self

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends) -> Encoded:
        """Pictures as CLIP takes them and tokens of their prompts. Raises UserError for answers in words."""
        if any(ends) or any(isinstance(one, str) for one in media):
            raise UserError(
                "this model scores pictures, but the data hold texts: use data of pictures, such as `preferences`"
            )
        pixels = torch.cat([self.clip.fitted(pictures.read(one)[None]) for one in media])
        tokens = self.clip.tokenizer([prompt.text for prompt in prompts]).to(self.device)
        places = torch.zeros(len(media), 1, dtype=torch.long, device=self.device)
        return Encoded({"pixels": pixels, "tokens": tokens}, places)

    # ---- weights

    def recompute_layers(self) -> None:
        """The towers keep less until the backward pass."""
        self.clip.model.set_grad_checkpointing(True)

    def reference(self) -> AbstractContextManager[Any]:
        """Nothing is kept of the untouched model: no objective of scores asks for it."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """CLIP's weights if they train; nothing otherwise, for the heads are not here."""
        if self.train == "heads":
            return {}
        return {name: weight.detach() for name, weight in self.clip.model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        if state.keys() != self.state_dict().keys():
            raise UserError("these weights belong to another model: keep `model` as it was when they were saved")
        self.clip.model.load_state_dict(dict(state), strict=self.train == "everything")

    def save(self, folder: Path) -> None:
        """CLIP's weights if they train, as open_clip names the file."""
        if state := self.state_dict():
            save_file({name: weight.contiguous().cpu() for name, weight in state.items()}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        if self.train == "everything":
            self.load_state_dict(load_file(folder / _FILE))
