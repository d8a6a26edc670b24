"""An earlier LoRA as part of the base: the model starts from it, its reference knows it, and it is saved with what is learnt.

Two low-rank matrices beside one layer are one of both ranks: B₁A₁ + B₂A₂ = [B₁ B₂] [A₁; A₂].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from mmalign.errors import UserError
from mmalign.locations import locate

Matrices = Mapping[str, tuple[Tensor, Tensor]]
"""By layer, A `[r, in, ...]` and B `[out, r, ...]`, float32, with the scale in B."""

_NAME = "earlier"
_FILE = "pytorch_lora_weights.safetensors"


def fuse(denoisers: Mapping[str, Any], kind: str, path: str) -> Mapping[str, Matrices]:
    """Add the LoRA in a folder to the weights of `denoisers`, each a "unet" or "transformer", by their folder within it.

    Raises UserError when none fits.
    """
    place = locate(path)
    if Path(place).is_absolute() and not Path(place).exists():
        raise UserError(f"lora {path}: no such folder")
    return {folder: _fused(denoiser, kind, place, folder, path) for folder, denoiser in denoisers.items()}


def _fused(denoiser: Any, kind: str, place: str, folder: str, path: str) -> Matrices:
    # diffusers looks into `subfolder` only where the folder itself holds no such file.
    local = Path(place).is_dir()
    try:
        denoiser.load_lora_adapter(
            str(Path(place) / folder) if local else place,
            prefix=kind,
            adapter_name=_NAME,
            weight_name=_FILE,
            subfolder=None if local else folder or None,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"lora {path} cannot be loaded ({reason}): name the `model` folder of a run with LoRA"
        ) from None
    found = matrices(denoiser, _NAME)
    if not found:
        raise UserError(f"lora {path} holds nothing for this model's denoiser")
    denoiser.fuse_lora(adapter_names=[_NAME])
    denoiser.unload_lora()
    return found


def matrices(denoiser: Any, adapter: str) -> Matrices:
    """The matrices of an adapter inside `denoiser`, copied."""
    return {
        name: (
            layer.lora_A[adapter].weight.detach().float().cpu().clone(),
            layer.lora_B[adapter].weight.detach().float().cpu() * layer.scaling[adapter],
        )
        for name, layer in denoiser.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def joined(one: Matrices, other: Matrices) -> dict[str, Tensor]:
    """Both as one LoRA, as peft names its weights; its alpha is its rank."""
    both = {}
    for layer in dict.fromkeys([*one, *other]):
        a, b = zip(*(found[layer] for found in (one, other) if layer in found), strict=True)
        both[f"{layer}.lora_A.weight"] = torch.cat(a, dim=0)
        both[f"{layer}.lora_B.weight"] = torch.cat(b, dim=1)
    return both
