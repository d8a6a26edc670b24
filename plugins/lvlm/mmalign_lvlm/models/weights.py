"""What trains in a language model, and how to be without it: LoRA matrices, or all its weights beside a frozen copy."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor

from mmalign.errors import UserError
from mmalign_lvlm.models.lora import Lora


def weights_of(base: Any, adapter: Lora | None, dtype: torch.dtype) -> "Weights":
    """LoRA in the language model of `base`, or all of that; frozen weights are in `dtype`."""
    return FullWeights(base, dtype) if adapter is None else LoraWeights(base, adapter)


class Weights(ABC):
    """What trains in `base`. The vision tower and its projector do only where an adapter says so."""

    def __init__(self, base: Any):
        self.base = base
        # Fixed here: peft takes `requires_grad` away while adapters are disabled.
        self._names = {name for name, weight in base.named_parameters() if weight.requires_grad}

    @abstractmethod
    def reference(self) -> AbstractContextManager[Any]:
        """The untouched model. Yields a frozen one to ask instead, or None where `base` itself is untouched within."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the result as its ecosystem does."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take back what `save` wrote. Weights of another model or adapter are a UserError."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Move what lies beside `base`."""

    def trainable(self) -> dict[str, Tensor]:
        """The weights that train, by name."""
        return {name: weight for name, weight in self.base.named_parameters() if name in self._names}

    @abstractmethod
    def whole(self, untouched: bool) -> Iterator[tuple[str, Tensor]]:
        """All weights of the language model and its head by their names without adapters: as they are, or as they were."""

    def fingerprint(self) -> tuple[int, ...]:
        """The sum of the bits of each trainable weight, which any update changes. Versions of tensors miss fused ones."""
        bits = [weight.detach().view(torch.int32) for weight in self.trainable().values()]
        return tuple(torch.stack([one.sum() for one in bits]).tolist())

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights, detached."""
        return {name: weight.detach() for name, weight in self.trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put `state_dict`'s weights back. Weights of another adapter are a UserError."""
        trainable = self.trainable()
        if trainable.keys() != state.keys() or any(trainable[name].shape != state[name].shape for name in state):
            raise UserError(
                "these weights belong to another model or adapter: keep `model` as it was when they were saved"
            )
        for name, weight in trainable.items():
            weight.copy_(state[name])


class LoraWeights(Weights):
    """LoRA in a frozen model. The matrices are float32 whatever the base is."""

    def __init__(self, base: Any, lora: Lora):
        base.requires_grad_(False)
        try:
            self.peft = get_peft_model(base, _peft_config(base, lora))
        except ValueError as error:
            raise UserError(f"adapter: {error}") from None
        super().__init__(base)

    def reference(self) -> AbstractContextManager[None]:
        """Adapters are off."""
        disabled: AbstractContextManager[None] = self.peft.disable_adapter()
        return disabled

    @torch.no_grad()
    def whole(self, untouched: bool) -> Iterator[tuple[str, Tensor]]:
        """W + s B A where there are matrices."""
        layers = {
            f"{name}.base_layer": layer for name, layer in self.base.named_modules() if isinstance(layer, LoraLayer)
        }
        for name, weight in language_weights(self.base):
            layer = layers.get(name.removesuffix(".weight"))
            if "lora_" not in name:
                delta = 0 if layer is None or untouched else layer.get_delta_weight("default").to(weight)
                yield name.replace(".base_layer", ""), weight + delta

    def save(self, folder: Path) -> None:
        """`adapter_model.safetensors` and its config, for `PeftModel.from_pretrained(base, folder)`."""
        # No embedding is trained; without this peft asks the hub whether the vocabulary has grown.
        self.peft.save_pretrained(folder, save_embedding_layers=False)

    def load(self, folder: Path) -> None:
        """The matrices that `save` wrote."""
        file = folder / "adapter_model.safetensors"
        if not file.is_file():
            raise UserError(f"{folder} holds no {file.name}")
        try:
            found = set_peft_model_state_dict(self.peft, load_file(file))
            fits = not found.unexpected_keys and not any("lora_" in name for name in found.missing_keys)
        except RuntimeError:  # shapes differ
            fits = False
        if not fits:
            raise UserError(f"{file} belongs to another model or adapter: keep `model` as it was when it was saved")

    def to(self, device: torch.device | str) -> None:
        """Nothing lies beside the model."""


class FullWeights(Weights):
    """All weights of the language model and its head, in float32, and a frozen copy of the model in `dtype`."""

    def __init__(self, base: Any, dtype: torch.dtype):
        self.frozen = deepcopy(base).to(dtype).requires_grad_(False).eval()
        base.requires_grad_(False)
        for part in (base.get_decoder(), base.get_output_embeddings()):
            part.requires_grad_(True)
        super().__init__(base)

    def reference(self) -> AbstractContextManager[Any]:
        """The frozen copy."""
        return nullcontext(self.frozen)

    def whole(self, untouched: bool) -> Iterator[tuple[str, Tensor]]:
        """All that trains, or the same of the frozen copy."""
        yield from language_weights(self.frozen if untouched else self.base)

    def save(self, folder: Path) -> None:
        """The whole model, for `from_pretrained(folder)`."""
        self.base.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """The model that `save` wrote."""
        whole = type(self.base).from_pretrained(folder, dtype=torch.float32).state_dict()
        self.load_state_dict({name: whole[name] for name in self._names})

    def to(self, device: torch.device | str) -> None:
        """Move the frozen copy."""
        self.frozen.to(device)


def language_weights(base: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of the language model and its head, by their names in `base`."""
    own = {id(weight) for part in (base.get_decoder(), base.get_output_embeddings()) for weight in part.parameters()}
    yield from ((name, weight) for name, weight in base.named_parameters() if id(weight) in own)


def _peft_config(base: Any, lora: Lora) -> LoraConfig:
    language = next(name for name, module in base.named_modules() if module is base.get_decoder())
    place = "" if lora.vision else rf"{re.escape(language)}\."
    targets = "|".join(re.escape(name) for name in lora.target_modules)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        target_modules=rf"{place}(.*\.)?({targets})",
        lora_dropout=lora.dropout,
    )
