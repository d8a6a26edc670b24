"""Load a vision-language model and its processor from a folder, an installed package or the hub."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign_lvlm.models.dialogue import writes_prompts

_ADAPTER = "adapter_config.json"


def load(path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model at `path` in `dtype`, and its processor. Of a folder with LoRA, as a run saves it, the model that it makes."""
    place = locate(path)
    if is_adapter(path):
        return _adapted(path, Path(place), dtype)
    _check_local(path, place)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        processor = AutoProcessor.from_pretrained(place)
        model = AutoModelForImageTextToText.from_pretrained(place, dtype=dtype)
    except ImportError as error:  # a processor that needs a package which transformers does not
        raise UserError(f"model {path} cannot be loaded: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"model {path} cannot be loaded: {_reason(error)}") from None
    _check_layout(path, model, processor)
    # How answers are drawn is said here alone, and prompts that are read once bring a cache of their own.
    model.generation_config.cache_implementation = None
    # What is saved beside LoRA names its model, for other machines too.
    model.name_or_path = place if path.startswith("~") else path
    return model, processor


def is_adapter(path: str) -> bool:
    """Whether a folder holds LoRA for a model and not the model itself."""
    folder = Path(locate(path))
    return (folder / _ADAPTER).is_file() and not (folder / "config.json").is_file()


def _adapted(path: str, folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model that LoRA in `folder` is for, with its matrices merged in."""
    base = _base(path, folder)
    try:
        model, processor = load(base, dtype)
    except UserError as error:
        raise UserError(f"model {path} is LoRA for {base}, which must still be there: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, folder, torch_device=str(model.device))
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError, UserWarning) as error:
        raise UserError(f"model {path} holds LoRA that does not fit {base}: {_reason(error)}") from None
    merged = adapted.merge_and_unload()
    merged.name_or_path = path
    return merged, processor


def _base(path: str, folder: Path) -> str:
    """The model that LoRA in `folder` says it is for."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"model {path} holds {_ADAPTER} but no adapter_model.safetensors")
    try:
        told = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model {path}: its {_ADAPTER} is no JSON: {error}") from None
    kind, base = (
        told.get(name) if isinstance(told, dict) else None for name in ("peft_type", "base_model_name_or_path")
    )
    if kind != "LORA" or not isinstance(base, str) or not base or Path(locate(base)).resolve() == folder.resolve():
        raise UserError(f"model {path}: its {_ADAPTER} names no model that LoRA is for in base_model_name_or_path")
    return base


def _check_local(path: str, place: str) -> None:
    """Refuse what is surely a local path and no model, before the hub is asked."""
    if Path(place).is_dir():
        if not (Path(place) / "config.json").is_file():
            raise UserError(f"model {path}: the folder holds no config.json, so it is no model of transformers")
    elif Path(place).exists():
        raise UserError(f"model {path} is a file: name the folder of a model, where config.json is")
    elif place.startswith((".", "/")) or place.count("/") > 1:
        raise UserError(f"model {path}: no such folder. Name one with a model, or a hub id `owner/name`")


def _check_layout(path: str, model: Any, processor: Any) -> None:
    """What the adapter builds on: a chat template, and a placeholder token that stands for image features."""
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UserError(
            f"model {path}: its processor does not handle pictures; preprocessor_config.json may be missing"
        )
    if not processor.chat_template and not writes_prompts(processor):
        raise UserError(f"model {path}: its processor has no chat template; add chat_template.jinja to the folder")
    if not hasattr(model.config, "image_token_id") or not hasattr(model.model, "get_image_features"):
        raise UserError(f"model {path} is a {type(model).__name__}, which keeps no placeholder tokens for pictures")


def _reason(error: BaseException) -> str:
    """Why there is nothing: transformers does not always say that it is the connection that is missing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError):
            return "no such folder here, and offline. Check the path or the id and the connection"
        cause = cause.__context__
    return str(error).strip().partition("\n")[0]
