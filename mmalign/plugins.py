"""Find plugins, load each in isolation, and keep a catalogue of who offered what.

A plugin that cannot be loaded never stops mmalign: it is remembered with its error, shown by `mmalign plugins`, and named
when a config asks for a part that nobody offers. Plugins come from the entry-point group `mmalign` and from files that a
config names (`plugins: [./sharpness.py]`).
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from packaging.specifiers import SpecifierSet

from mmalign import __version__, hookspecs
from mmalign.errors import UserError, nearest
from mmalign.specs import API_VERSION, Spec

OFFERS = {
    "model": "models",
    "objective": "objectives",
    "reward": "rewards",
    "metric": "metrics",
    "dataset": "datasets",
    "judge": "judges",
    "guidance": "guidance",
}
"""Kind of part -> its plural, which is also the end of the hook's name."""

HOMES = {
    "mmalign-diffusion": ("diffusers", "clip-reward", "clip-score", "aesthetic", "colourfulness", "jpeg-size"),
    "mmalign-lvlm": (
        *("vlm", "vlm-reward", "http", "segment-reward", "segment-likelihood", "critiqued"),
        *("iou", "confidence", "exact-answer", "rejected-claims", "self-retrieval", "degraded-pairs"),
        *("chair", "object-halbench", "pope", "amber", "mmhal", "faithscore", "visco"),
        *("visco-correction", "visco-corrections", "pope-questions", "coco-images", "lookback"),
        *("self-correction", "self-corrections"),
    ),
    "mmalign-video": ("diffusers-video", "video-reward", "latent-video-reward", "dsg", "flow-nrg", "worldsimbench"),
    "mmalign-shapes": (
        *("oracle", "video-oracle", "caption-oracle", "caption-recall", "captions", "shapes-oracle"),
        *(
            "shapes-prompts",
            "shapes-images",
            "shapes-captions",
            "shapes-corrections",
            "shapes-feedback",
            "shapes-localisation",
        ),
        *("shapes-video-prompts", "shapes-videos", "shapes-video-pairs"),
    ),
}
"""Where the parts of mmalign's own plugins live, so that an unknown name can say what to install."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from."""

    name: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Offer:
    """A spec and who offers it."""

    spec: Any
    source: Source


@dataclass(frozen=True)
class LoadedPlugin:
    """A plugin that works and the hooks that it implements."""

    source: Source
    hooks: list[str]


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded, or whose offers could not be read."""

    source: Source
    error: Exception

    @property
    def message(self) -> str:
        """One line for a table."""
        return f"{type(self.error).__name__}: {self.error}"


class Catalogue:
    """Every part that is offered, by kind and name."""

    def __init__(self, offers: Mapping[str, Sequence[Offer]], failures: Sequence[Failure] = ()):
        self._offers = offers
        self._failures = failures

    def offers(self, kind: str) -> dict[str, Offer]:
        """Name -> offer, sorted. A name that two distributions offer appears as `distribution:name` for each."""
        names = [offer.spec.name for offer in self._offers[kind]]
        shown = {
            offer.spec.name if names.count(offer.spec.name) == 1 else _qualified(offer): offer
            for offer in self._offers[kind]
        }
        return dict(sorted(shown.items()))

    def find(self, kind: str, name: str) -> Offer:
        """The one part of that name. Raises UserError when there is none, or more than one."""
        found = [offer for offer in self._offers[kind] if name in (offer.spec.name, _qualified(offer))]
        if len(found) == 1:
            return found[0]
        if found:
            options = " or ".join(f"'{_qualified(offer)}'" for offer in found)
            raise UserError(f"{kind} '{name}' is offered twice; say {options}")
        raise UserError(f"unknown {kind} '{name}'{self._remedy(kind, name)}")

    def _remedy(self, kind: str, name: str) -> str:
        for distribution, names in HOMES.items():
            if name in names:
                return f"; it comes with {distribution}: pip install {distribution}{self._broken(distribution)}"
        known = list(self.offers(kind))
        hint = nearest(name, known) or f"; known: {', '.join(known) or 'none, no plugin offers any'}"
        return hint + self._broken()

    def _broken(self, distribution: str = "") -> str:
        names = [f.source.name for f in self._failures if distribution in ("", f.source.distribution)]
        return f" (failed to load: {', '.join(names)}; see `mmalign plugins`)" if names else ""


_SEARCHED: ContextVar[Catalogue | None] = ContextVar("searched", default=None)


@contextmanager
def searching(catalogue: Catalogue) -> Iterator[None]:
    """Within it `find` knows the parts of this catalogue, those of the files that a config names among them."""
    token = _SEARCHED.set(catalogue)
    try:
        yield
    finally:
        _SEARCHED.reset(token)


def find(kind: str, name: str) -> Offer:
    """The part of that name, for one that is built of others: of the config's plugins while its parts are built, else of those
    that are installed. Raises UserError when there is none, or more than one.
    """
    searched = _SEARCHED.get()
    return (load().catalogue if searched is None else searched).find(kind, name)


@dataclass
class Plugins:
    """Loaded plugins: `hook` calls them, `catalogue` lists their parts, `failures` are those left out."""

    manager: pluggy.PluginManager
    loaded: list[LoadedPlugin] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    catalogue: Catalogue = field(init=False)

    @property
    def hook(self) -> Any:
        """Calls a hook of every plugin: `plugins.hook.mmalign_run_start(run=run)`."""
        return self.manager.hook


def load(extra: Sequence[str] = (), base: Path | None = None, installed: bool = True) -> Plugins:
    """Load builtin plugins, then installed ones, then the files `extra` (relative to `base`).

    Later plugins are asked first, so third parties decide before mmalign. `installed=False` leaves the entry points out.
    Raises UserError only for a file in `extra`: the config asked for exactly that one.
    """
    from mmalign.builtin import PLUGINS

    manager = pluggy.PluginManager("mmalign")
    manager.add_hookspecs(hookspecs)
    manager.add_hookcall_monitoring(lambda *_: None, _name_culprit)
    plugins = Plugins(manager)
    for plugin in PLUGINS:
        _register(plugins, Source(plugin.__name__.rpartition(".")[2], "mmalign", __version__), partial(_itself, plugin))
    for entry in sorted(entry_points(group="mmalign"), key=lambda e: e.name) if installed else ():
        _register(plugins, _source(entry), entry.load)
    for file in extra:
        path = (base or Path.cwd()) / file
        _register(plugins, Source(path.stem, str(path), ""), partial(_module_of, path))
        if plugins.failures and plugins.failures[-1].source.distribution == str(path):
            raise UserError(f"plugin {path}: {plugins.failures[-1].message}")
    plugins.catalogue = Catalogue({kind: list(_gather(plugins, kind)) for kind in OFFERS}, plugins.failures)
    return plugins


def _register(plugins: Plugins, source: Source, importer: Callable[[], Any]) -> None:
    try:
        plugin = importer()
        _check_api(plugin)
        _check_hook_names(plugins.manager, plugin)
        plugins.manager.register(plugin, name=f"{source.distribution}:{source.name}")
    except Exception as error:
        plugins.failures.append(Failure(source, error))
        return
    hooks = sorted(caller.name for caller in plugins.manager.get_hookcallers(plugin) or ())
    plugins.loaded.append(LoadedPlugin(source, hooks))


def _gather(plugins: Plugins, kind: str) -> Iterator[Offer]:
    sources = {f"{p.source.distribution}:{p.source.name}": p.source for p in plugins.loaded}
    for implementation in getattr(plugins.hook, f"mmalign_{OFFERS[kind]}").get_hookimpls():
        source = sources[implementation.plugin_name]
        try:
            specs = list(implementation.function())
            if wrong := [spec for spec in specs if not (isinstance(spec, Spec) and spec.kind == kind)]:
                raise TypeError(f"mmalign_{OFFERS[kind]} yielded {wrong[0]!r}, which is no {kind} spec")
        except Exception as error:
            plugins.failures.append(Failure(source, error))
            continue
        yield from (Offer(spec, source) for spec in specs)


def _check_api(plugin: Any) -> None:
    supported = getattr(plugin, "MMALIGN_API", "")
    if str(API_VERSION) not in SpecifierSet(supported):
        raise UserError(f"written for mmalign's plugin API {supported}, this is {API_VERSION}: upgrade one of the two")


def _check_hook_names(manager: pluggy.PluginManager, plugin: Any) -> None:
    known = [name for name in vars(hookspecs) if name.startswith("mmalign_")]
    for name in dir(plugin):
        if manager.parse_hookimpl_opts(plugin, name) is not None and name not in known:
            raise UserError(f"implements {name}, which is no hook{nearest(name, known)}")


def _name_culprit(outcome: pluggy.Result[Any], hook_name: str, methods: Sequence[pluggy.HookImpl], _: Any) -> None:
    """Add a note to what a hook raised: which plugin, which hook. Type and traceback stay as they are."""
    error = outcome.exception
    trace = error.__traceback__ if error is not None else None
    culprit = None
    while trace is not None:
        code = trace.tb_frame.f_code
        culprit = next((m for m in methods if getattr(m.function, "__code__", None) is code), culprit)
        trace = trace.tb_next
    if error is not None and culprit is not None and not isinstance(error, UserError):
        error.add_note(f"raised by mmalign plugin '{culprit.plugin_name}' in hook {hook_name}")


def _source(entry: EntryPoint) -> Source:
    distribution = entry.dist
    return Source(
        entry.name, distribution.name if distribution else entry.value, distribution.version if distribution else ""
    )


def _itself(plugin: Any) -> Any:
    return plugin


def _module_of(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError("no such file")
    spec = importlib.util.spec_from_file_location(f"mmalign_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and tracebacks look there
    spec.loader.exec_module(module)
    return module


def _qualified(offer: Offer) -> str:
    return f"{offer.source.distribution}:{offer.spec.name}"
