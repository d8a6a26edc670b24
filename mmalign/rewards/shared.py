"""Models that several rewards ask, loaded once: a reward for each dimension of one model, or the same one in two places."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

Loaded = TypeVar("Loaded")

_ALIVE: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], Loaded]) -> Loaded:
    """What `load` gives, or what it gave before under the same key, as long as somebody still holds that."""
    found: Loaded | None = _ALIVE.get(key)
    if found is None:
        _ALIVE[key] = found = load()
    return found


def written(folder: Path) -> Hashable:
    """When each file of a folder was written, so that what is written anew is loaded anew."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return tuple(sorted((str(file), file.stat().st_mtime_ns) for file in files))
