"""What the result of a run depends on, as a hash; nothing heavy is imported, so that it takes no time.

Its config with overrides and seed; the code of the parts that the config names, of their process and of the loop, with all the
formulas and all of plugins that this imports; and the files of models that the config names inside a package. Comments and
docstrings do not matter. Code elsewhere is left out, for nearly all of it changes no result: where it does, raise the `version`
of the claim.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmalign import plugins
from mmalign.document import read_source
from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.processes import PROCESSES

LOOP = ("mmalign.loop", "mmalign.feeds", "mmalign.data.collect")
"""What every run goes through."""
FORMULAS = ("maths", "objectives", "processes", "rewards", "samplers")
"""The packages of mmalign in which numbers are made; of its plugins all are. Records, options and files are not followed."""


def key(config: Path, overrides: Sequence[str], version: int = 0) -> str:
    """The hash of a run of a config."""
    data = read_source(config, overrides).data
    said = set(texts(data))
    digest = hashlib.sha256(json.dumps([data, version], sort_keys=True).encode())
    # In an order that does not depend on where packages are installed.
    for content in sorted({meaning(path) for path in (*code_of(said), *models_of(said))}):
        digest.update(content)
    return digest.hexdigest()


def texts(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from texts(inner)


def code_of(said: set[str]) -> Iterator[Path]:
    """The files of the loop and of every part that is named, and all that they import of ours, directly or not."""
    modules = [*LOOP, *(module for name, built in parts().items() if name in said for module in built)]
    found: set[Path] = set()
    ahead = [file for module in modules for file in files_of(module)]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += imported(file)
    yield from found


@cache
def parts() -> Mapping[str, list[str]]:
    """By name of a part, the modules that build it, and that of its process; nothing is imported."""
    found: dict[str, list[str]] = {}
    catalogue = plugins.load().catalogue
    for kind in plugins.OFFERS:
        for name, offer in catalogue.offers(kind).items():
            built = [offer.spec.build, PROCESSES.get(getattr(offer.spec, "process", ""), "")]
            found.setdefault(name, []).extend(one.partition(":")[0] for one in built if isinstance(one, str) and one)
    return found


@cache
def files_of(module: str) -> Sequence[Path]:
    """The file of a module, or all of a package's."""
    path = place_of(module)
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def place_of(module: str) -> Path:
    """Where a module is, without the ending of its file; nothing is imported."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    folder = Path(str(next(iter(spec.submodule_search_locations or ())))) if spec else Path(top)
    return folder.joinpath(*inner)


@cache
def imported(path: Path) -> Sequence[Path]:
    """The files of ours that a file imports, at its head or within a function, but not for its types alone."""
    files = (file_of(name) for name in names_in(ast.parse(path.read_bytes())) if makes_numbers(name))
    return sorted({file for file in files if file})


def makes_numbers(module: str) -> bool:
    """Whether a module is one of a plugin or of `FORMULAS`."""
    top, _, inner = module.partition(".")
    return top.startswith("mmalign_") or (top == "mmalign" and inner.partition(".")[0] in FORMULAS)


def names_in(tree: ast.AST) -> Iterator[str]:
    """Modules and what is taken from them, which may be modules, too: `from a import b` is `a` and `a.b`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from names_in(node)


def file_of(module: str) -> Path | None:
    """The file of a module, a package's `__init__`; None of a name that is no module."""
    path = place_of(module)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path if path.is_file() else None


def models_of(said: set[str]) -> Iterator[Path]:
    """The files of every `package:path`."""
    for text in said:
        try:
            found = Path(locate(text)) if ":" in text else None
        except UserError:  # a sentence with a colon, or a package that the run itself will miss
            continue
        if found and found.exists():
            yield from (file for file in [found, *found.rglob("*")] if file.is_file())


@cache
def meaning(path: Path) -> bytes:
    """What a file says: code without comments and docstrings, anything else byte for byte; as a hash."""
    content = path.read_bytes()
    if path.suffix == ".py":
        tree = ast.parse(content)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [one for one in body if not is_text(one)]  # type: ignore[attr-defined]
        content = ast.dump(tree).encode()
    return hashlib.sha256(content).digest()


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a text alone, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
