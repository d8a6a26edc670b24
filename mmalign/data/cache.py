"""Tensors that are computed once and kept in a folder, by what they are made of.

A file is written aside and renamed when it is whole, so that a run killed at any moment leaves nothing that another run takes
for an entry; processes and runs may share a folder.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.records import Media

Tensors = Mapping[str, Tensor]


class Store:
    """A folder of named tensors by key. Keys are hexadecimal digests.

    made: how many entries were written since it was opened.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.made = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What was kept, on the CPU. None where nothing is, or where the disk lost a part of it."""
        try:
            tensors: dict[str, Tensor] = load_file(self._file(key))
        except (FileNotFoundError, NotADirectoryError, SafetensorError):
            return None
        return tensors

    def put(self, key: str, tensors: Tensors) -> None:
        """Keep tensors, whose bits come back as they are. Raises UserError when the disk does not take them."""
        file = self._file(key)
        aside = file.with_name(f".{file.stem}-{uuid.uuid4().hex}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: one.detach().cpu().clone().contiguous() for name, one in tensors.items()}, aside)
            _on_disk(aside)
            os.replace(aside, file)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                aside.unlink()
            raise UserError(f"data.cache: cannot write into {self.folder} ({error})") from None
        self.made += 1

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"


def digest(*parts: str) -> str:
    """A key of several texts, of which none can be mistaken for another."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def content(medium: Media) -> str:
    """The digest of a file's or of bytes' content, wherever they lie. Raises UserError for a file that is not there."""
    if isinstance(medium, Tensor):
        raise TypeError("what is made on the spot is not kept")
    if isinstance(medium, bytes):
        return hashlib.sha256(medium).hexdigest()
    try:
        return hashlib.sha256(Path(medium).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {medium} ({error.strerror}): replace the file or remove its row") from None


def fingerprint(modules: Iterable[nn.Module], settings: Mapping[str, Any]) -> str:
    """What tells models apart: the digest of their weights, bit for bit, and of plain `settings`."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in modules:
        for name, weight in module.state_dict().items():
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _on_disk(file: Path) -> None:
    with open(file, "rb") as written:
        os.fsync(written.fileno())
