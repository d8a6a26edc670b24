"""Load a diffusers pipeline of a known family from a folder, an installed package or the hub."""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub.errors import LocalEntryNotFoundError
from packaging.version import Version

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign_diffusion.models.families.family import Family

F = TypeVar("F", bound=Family)
# diffusers 0.40 renamed the argument.
_DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"


def load(
    path: str,
    families: Mapping[str, type[F]],
    dtype: torch.dtype,
    denoiser_dtype: torch.dtype,
    variant: str | None = None,
) -> tuple[DiffusionPipeline, type[F]]:
    """The pipeline at `path` and which of `families` it is. Encoders are in `dtype`, denoisers in `denoiser_dtype`.

    The VAE stays in float32: it is small, and in half precision it overflows.
    """
    place = locate(path)
    index = _index(path, place)
    name = index.get("_class_name")
    if name not in families:
        raise UserError(f"model {path} is a {name}; the families known are {', '.join(families)}")
    family = families[name]
    denoisers = [part for part in index if part.startswith(family.denoiser)]
    dtypes = {"default": dtype, "vae": torch.float32, **dict.fromkeys(denoisers, denoiser_dtype)}
    # Parts that the pipeline was saved without, such as the T5 encoder of SD3.
    absent = [part for part, kind in index.items() if isinstance(kind, list | tuple) and kind[0] is None]
    options = {"variant": variant, _DTYPE: dtypes, **dict.fromkeys(absent), **family.loading}
    _quiet_on_a_pipe()
    try:
        pipe = DiffusionPipeline.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"model {path} cannot be loaded: {_first_line(error)}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe, family


def _index(path: str, place: str) -> Mapping[str, Any]:
    """The pipeline's `model_index.json`."""
    _check_local(path, place)
    try:
        with warnings.catch_warnings():
            # diffusers hands the hub client an argument that the client has dropped.
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
            index: Mapping[str, Any] = DiffusionPipeline.load_config(place)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {path}: no such folder here, and the hub does not give it ({_reason(error)}). Name a folder "
            "with a diffusers pipeline, or check the id and the connection; gated models also need `hf auth login`"
        ) from None
    return index


def _check_local(path: str, place: str) -> None:
    """Refuse what is surely a local path and no pipeline, before the hub is asked."""
    if Path(place).is_dir():
        if not (Path(place) / "model_index.json").is_file():
            raise UserError(f"model {path}: the folder holds no model_index.json, so it is no diffusers pipeline")
    elif Path(place).exists():
        raise UserError(f"model {path} is a file: name the folder of a diffusers pipeline, where model_index.json is")
    elif place.startswith((".", "/")) or place.count("/") > 1:
        raise UserError(f"model {path}: no such folder. Name one with a diffusers pipeline, or a hub id `owner/name`")


def _quiet_on_a_pipe() -> None:
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def _reason(error: BaseException) -> str:
    """Why the hub gave nothing. diffusers says "no such file" when it is the connection that is missing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError):
            return "offline, and not downloaded before"
        cause = cause.__context__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
