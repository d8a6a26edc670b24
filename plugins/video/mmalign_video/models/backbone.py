"""A vision-language model with tokens of its own for ratings: what trains in it, and how it is saved."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_layers import GradientCheckpointingLayer

from mmalign.errors import UserError
from mmalign.locations import locate

_REST, _LORA = "video_reward.safetensors", "adapter_model.safetensors"
_OTHER = "these weights belong to another model or adapter: keep `model` as it was when they were saved"


class MoreTokens(nn.Module):
    """An embedding with further tokens behind those that it has; `own` `[N, H]` are theirs, and train.

    first: the id of the first of them.
    """

    def __init__(self, embedding: nn.Embedding, first: int, count: int):
        super().__init__()
        self.embedding = embedding
        self.first = first
        # Between the others, as a token that nobody has said yet.
        mean = embedding.weight.detach().float().mean(dim=0)
        self.own = nn.Parameter(mean + 0.02 * torch.randn(count, len(mean), device=mean.device))

    def forward(self, ids: Tensor) -> Tensor:
        """`[B, T, H]`."""
        place = ids - self.first
        mine = (place >= 0) & (place < len(self.own))
        known: Tensor = self.embedding(ids.masked_fill(mine, 0))
        return torch.where(mine[..., None], self.own[place.clamp(0, len(self.own) - 1)].to(known.dtype), known)


class Backbone:
    """The model at `path` and its processor, with `tokens` of their own.

    adapter: LoRA in the language model; None trains all of it. vision: whether the vision tower and its projector train.
    dtype: of what does not train.
    """

    def __init__(self, path: str, tokens: Sequence[str], adapter: Any, vision: bool, dtype: torch.dtype):
        self.base, self.processor = _loaded(path, dtype)
        self.base.eval().requires_grad_(False)
        words = self.processor.tokenizer
        words.add_special_tokens({"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False)
        ids = words.convert_tokens_to_ids(list(tokens))
        if ids != list(range(ids[0], ids[0] + len(ids))):
            raise UserError(f"model {path}: its tokenizer knows some of {', '.join(tokens)} already")
        embedding = MoreTokens(self.base.get_input_embeddings(), ids[0], len(ids))
        self.base.set_input_embeddings(embedding)
        self.peft = None if adapter is None else _adapted(self.base, adapter)
        parts = [embedding.own] + ([] if adapter else list(self.base.get_decoder().layers.parameters()))
        parts += list(self.base.model.visual.parameters()) if vision else []
        parts += [] if adapter else list(self.base.get_decoder().norm.parameters())
        for weight in parts:
            weight.requires_grad_(True)
        for weight in self.base.parameters():
            weight.data = weight.data.float() if weight.requires_grad else weight.data
        self._names = {name for name, weight in self.base.named_parameters() if weight.requires_grad}

    def recompute_layers(self) -> None:
        """The layers keep their input alone until the backward pass."""
        self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in self.base.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # of the layer alone: what is inside stays without dropout

    def trainable(self) -> dict[str, Tensor]:
        """The weights that train, by name."""
        return {name: weight for name, weight in self.base.named_parameters() if name in self._names}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put trained weights back. Those of another model are a UserError."""
        own = self.trainable()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise UserError(_OTHER)
        for name, weight in own.items():
            weight.copy_(state[name])

    def save(self, folder: Path) -> None:
        """LoRA as peft writes it, and all else that trained in one file, by transformers' names."""
        if self.peft is not None:
            self.peft.save_pretrained(folder, save_embedding_layers=False)
        save_file({name: weight.detach().contiguous().cpu() for name, weight in self._rest().items()}, folder / _REST)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take back what `save` wrote. Raises UserError for what another model or adapter saved."""
        saved, rest = load_file(folder / _REST), self._rest()
        if saved.keys() != rest.keys() or any(rest[name].shape != saved[name].shape for name in rest):
            raise UserError(_OTHER)
        for name, weight in rest.items():
            weight.copy_(saved[name])
        if self.peft is not None:
            try:
                found = set_peft_model_state_dict(self.peft, load_file(folder / _LORA))
            except (OSError, RuntimeError):  # there is none, or its shapes differ
                raise UserError(_OTHER) from None
            if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
                raise UserError(_OTHER)

    def _rest(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.trainable().items() if ".lora_" not in name}


def _adapted(base: Any, adapter: Any) -> Any:
    language = next(name for name, module in base.named_modules() if module is base.get_decoder())
    targets = "|".join(re.escape(name) for name in adapter.target_modules)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.rank if adapter.alpha is None else adapter.alpha,
        target_modules=rf"{re.escape(language)}\.(.*\.)?({targets})",
        lora_dropout=adapter.dropout,
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise UserError(f"adapter: {error}") from None


def _loaded(path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    place = locate(path)
    if Path(place).exists() and not (Path(place) / "config.json").is_file():
        raise UserError(f"model {path}: it holds no config.json, so it is no model of transformers")
    try:
        processor = AutoProcessor.from_pretrained(place)
        base = AutoModelForImageTextToText.from_pretrained(place, dtype=dtype)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"model {path} cannot be loaded: {_reason(error)}") from None
    if not hasattr(processor, "video_processor") or not hasattr(base.model, "visual"):
        raise UserError(f"model {path} is a {type(base).__name__}, which takes no videos as Qwen2-VL does")
    return base, processor


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError):
            return "no such folder here, and offline. Check the path or the id and the connection"
        cause = cause.__context__
    return str(error).strip().partition("\n")[0]
