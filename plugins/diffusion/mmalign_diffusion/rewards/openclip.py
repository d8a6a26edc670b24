"""open_clip models as frozen, differentiable embeddings of pictures and texts.

open_clip is imported when a model is built, so that the options of rewards can be read without it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from mmalign.errors import UserError, nearest
from mmalign.locations import locate
from mmalign_diffusion import pictures

_CACHED_TEXTS = 65_536


class OpenClip:
    """A frozen CLIP. Embeddings have length 1; gradient flows to pixels, never to weights.

    model, pretrained: as open_clip names them.
    path: a folder with `open_clip_config.json` and weights instead, or `package:relative/path` in an installed package.
    """

    def __init__(self, model: str, pretrained: str, path: str | None = None):
        import open_clip

        if path is None:
            _check_names(model, pretrained)
        name = model if path is None else f"local-dir:{_folder(path)}"
        self.model = _create(name, None if path else pretrained).requires_grad_(False).eval()
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        settings = open_clip.get_model_preprocess_cfg(self.model)
        self.size = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
        self.mean = torch.tensor(settings["mean"]).view(3, 1, 1)
        self.std = torch.tensor(settings["std"]).view(3, 1, 1)
        self._texts: dict[str, Tensor] = {}

    def to(self, device: torch.device | str) -> Self:
        """Move it."""
        self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self._texts.clear()
        return self

    def images(self, pixels: Tensor) -> Tensor:
        """`[..., 3, H, W]` in [0, 1] to `[..., D]`: pictures, or videos frame by frame."""
        *leading, channels, height, width = pixels.shape
        embedded: Tensor = self.model.encode_image(self.fitted(pixels.reshape(-1, channels, height, width)))
        return F.normalize(embedded.float(), dim=-1).reshape(*leading, -1)

    def fitted(self, pixels: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1] resized (bicubic, antialiased) and normalised as the model asks."""
        sized = pictures.fit(pixels.to(self.mean.device).float(), self.size, "bicubic")
        return (sized - self.mean) / self.std

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """`[B, D]`. Each text is embedded once and kept."""
        if len(self._texts) > _CACHED_TEXTS:
            self._texts.clear()
        if new := sorted(set(texts) - self._texts.keys()):
            embedded = self.model.encode_text(self.tokenizer(new).to(self.mean.device))
            self._texts.update(zip(new, F.normalize(embedded.float(), dim=-1), strict=True))
        return torch.stack([self._texts[text] for text in texts])


def _folder(path: str) -> Path:
    place = Path(locate(path))
    if not (place / "open_clip_config.json").is_file():
        raise UserError(f"{path}: no folder with an open_clip model (open_clip_config.json and weights)")
    return place


def _create(name: str, pretrained: str | None) -> Any:
    """The model with its weights. Those trained with the quick GELU get it; open_clip would only warn."""
    import open_clip

    quick_gelu = bool(pretrained) and bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu"))
    try:
        return open_clip.create_model(
            name, pretrained, force_quick_gelu=quick_gelu, require_pretrained=True, pretrained_text=False
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"CLIP {name}{f' ({pretrained})' if pretrained else ''} cannot be loaded: {str(error).partition('. ')[0]}. "
            "Check the connection, or give `path`, a folder with an open_clip model"
        ) from None


def _check_names(model: str, pretrained: str) -> None:
    import open_clip

    if model not in (known := open_clip.list_models()):
        raise UserError(f"model: open_clip knows no '{model}'{nearest(model, known)}")
    if pretrained not in (tags := open_clip.list_pretrained_tags_by_model(model)) and not Path(pretrained).is_file():
        raise UserError(f"pretrained: {model} has no weights '{pretrained}'; there are {', '.join(tags)}")
