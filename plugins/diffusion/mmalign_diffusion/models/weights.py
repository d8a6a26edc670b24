"""What trains in a denoiser, and how to be without it: LoRA matrices, or all weights beside a frozen copy."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign_diffusion.models import earlier
from mmalign_diffusion.models.earlier import Matrices
from mmalign_diffusion.models.lora import Lora

Denoisers = Mapping[str, Any]
"""By the folder of their LoRA within that of the result; "" is that folder itself."""


def weights_of(
    network: nn.Module, denoisers: Denoisers, adapter: Lora | None, dtype: torch.dtype, fused: Mapping[str, Matrices]
) -> "Weights":
    """LoRA inside the `denoisers` of `network`, or all of it; frozen weights are in `dtype`. fused: earlier LoRAs."""
    return FullWeights(network, dtype) if adapter is None else LoraWeights(network, denoisers, adapter, fused)


class Weights(ABC):
    """What trains in a denoiser."""

    @abstractmethod
    def trainable(self) -> dict[str, Tensor]:
        """The weights that train, by name."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[nn.Module | None]:
        """The untouched model. Yields a frozen module to ask instead, or None where the denoiser is untouched."""

    @abstractmethod
    def save(self, pipe: Any, folder: Path) -> None:
        """Write the result as diffusers writes it."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Move what does not belong to the pipeline."""

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
    """LoRA inside a frozen denoiser. The matrices are float32 whatever the base is."""

    def __init__(self, network: nn.Module, denoisers: Denoisers, lora: Lora, fused: Mapping[str, Matrices]):
        self.network = network.requires_grad_(False)
        self.denoisers = denoisers
        self.fused = fused
        try:
            for denoiser in denoisers.values():
                denoiser.add_adapter(_peft_config(lora))
        except ValueError as error:
            raise UserError(f"adapter: {error}") from None
        # Fixed here: peft takes `requires_grad` away while adapters are disabled.
        self._names = {name for name, weight in network.named_parameters() if weight.requires_grad}
        for weight in self.trainable().values():
            weight.data = weight.data.float()

    def trainable(self) -> dict[str, Tensor]:
        """The matrices."""
        return {name: weight for name, weight in self.network.named_parameters() if name in self._names}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Adapters are off."""
        for denoiser in self.denoisers.values():
            denoiser.disable_adapters()
        try:
            yield
        finally:
            for denoiser in self.denoisers.values():
                denoiser.enable_adapters()

    def save(self, pipe: Any, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, for `pipe.load_lora_weights(folder)`, the earlier LoRA included.

        A second denoiser has its own in a folder of its name within, for `load_into_transformer_2=True`.
        """
        kind = "unet" if self.network is getattr(pipe, "unet", None) else "transformer"
        for place, denoiser in self.denoisers.items():
            layers = earlier.joined(self.fused.get(place, {}), earlier.matrices(denoiser, "default"))
            pipe.save_lora_weights(folder / place, **{f"{kind}_lora_layers": convert_state_dict_to_diffusers(layers)})

    def to(self, device: torch.device | str) -> None:
        """Nothing lies beside the pipeline."""


class FullWeights(Weights):
    """All weights of the denoiser, in float32, and a frozen copy in `dtype`."""

    def __init__(self, denoiser: nn.Module, dtype: torch.dtype):
        self.frozen = deepcopy(denoiser).to(dtype).requires_grad_(False).eval()
        self.denoiser = denoiser.requires_grad_(True)

    def trainable(self) -> dict[str, Tensor]:
        """Everything."""
        return dict(self.denoiser.named_parameters())

    def reference(self) -> AbstractContextManager[nn.Module]:
        """The frozen copy."""
        return nullcontext(self.frozen)

    def save(self, pipe: Any, folder: Path) -> None:
        """The whole pipeline, for `DiffusionPipeline.from_pretrained(folder)`."""
        pipe.save_pretrained(folder)

    def to(self, device: torch.device | str) -> None:
        """Move the frozen copy."""
        self.frozen.to(device)


def _peft_config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=lora.dropout,
        init_lora_weights="gaussian",
    )
