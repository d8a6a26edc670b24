"""Verbs that tell what there is: list, describe, plugins."""

import inspect
import sys
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmalign.cli.common import Json, loaded, say_json, say_table
from mmalign.errors import UserError, nearest

if TYPE_CHECKING:
    from mmalign.plugins import Offer, Plugins, Source


def list_parts(
    ctx: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND", help="models, objectives, rewards, metrics, datasets, judges or guidance; all by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the parts that configs can name, with the distribution that offers each."""
    from mmalign.plugins import HOMES, OFFERS

    found = loaded(ctx)
    kinds = [_kind(kind)] if kind else list(OFFERS)
    listed = {one: found.catalogue.offers(one) for one in kinds}
    if as_json:
        say_json(
            {OFFERS[one]: [_facts(name, offer) for name, offer in offers.items()] for one, offers in listed.items()}
        )
    else:
        rows = [
            (one, name, offer.source.distribution, offer.spec.paper)
            for one, offers in listed.items()
            for name, offer in offers.items()
        ]
        say_table(("kind", "name", "from", "paper"), rows)
        for one in (one for one, offers in listed.items() if not offers):
            typer.echo(f"no {OFFERS[one]}: plugins bring them, for example pip install {next(iter(HOMES))}")
    _warn_of_failures(found)


def describe(
    ctx: typer.Context,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="model, objective, reward, metric, dataset, judge or guidance.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `mmalign list`.")],
    as_json: Json = False,
) -> None:
    """Describe a part: what it does and needs, its options with types and defaults, its paper, who offers it."""
    from mmalign.options import described

    offer = loaded(ctx).catalogue.find(_kind(kind), name)
    options = described(offer.spec)
    facts = {"kind": offer.spec.kind, **_facts(name, offer), "build": _built_by(offer.spec), "doc": _doc(offer.spec)}
    if as_json:
        say_json({**facts, "options": [option._asdict() for option in options]})
        return
    doc = facts.pop("doc")
    for key, value in facts.items():
        typer.echo(f"{key + ':':15} {_words(value)}")
    typer.echo(f"\n{doc}\n")
    rows = [(option.name, option.type, "required" if option.required else _words(option.default)) for option in options]
    if rows:
        say_table(("option", "type", "default"), rows)
    else:
        typer.echo("no options")


def list_plugins(ctx: typer.Context, as_json: Json = False) -> None:
    """List the plugins that were found, with their hooks, and those that failed with their error."""
    found = loaded(ctx)
    everything: list[tuple[Source, list[str], str | None]] = [
        *((plugin.source, plugin.hooks, None) for plugin in found.loaded),
        *((failure.source, [], failure.message) for failure in found.failures),
    ]
    if as_json:
        say_json([{**vars(source), "hooks": hooks, "error": error} for source, hooks, error in everything])
        return
    rows = [
        (
            source.name,
            f"{source.distribution} {source.version}".strip(),
            f"failed: {error}" if error else ", ".join(hooks),
        )
        for source, hooks, error in everything
    ]
    say_table(("plugin", "from", "hooks"), rows)


def _kind(word: str) -> str:
    """The kind that a person means, in the singular or the plural."""
    from mmalign.plugins import OFFERS

    words = {**{plural: kind for kind, plural in OFFERS.items()}, **{kind: kind for kind in OFFERS}}
    if word not in words:
        raise UserError(f"unknown kind '{word}'{nearest(word, words) or '; known: ' + ', '.join(OFFERS.values())}")
    return words[word]


def _facts(name: str, offer: "Offer") -> dict[str, Any]:
    """What a spec declares, as plain data; nothing is imported for it."""
    known = {"name": name, "distribution": offer.source.distribution, "version": offer.source.version}
    declared = {field.name: getattr(offer.spec, field.name) for field in fields(offer.spec)}
    plain = {key: sorted(value) if isinstance(value, frozenset) else value for key, value in declared.items()}
    return {**known, **{key: value for key, value in plain.items() if key not in ("name", "build")}}


def _built_by(spec: Any) -> str:
    if isinstance(spec.build, str):
        return str(spec.build)
    thing = getattr(spec.build, "loss", spec.build)
    thing = thing.func if isinstance(thing, partial) else thing
    return f"{thing.__module__}:{thing.__qualname__}"


def _doc(spec: Any) -> str:
    """The part's own docstring; for an objective that of its file, where the formula stands."""
    if spec.kind == "objective":
        module = sys.modules[_built_by(spec).partition(":")[0]]
        return inspect.getdoc(module) or "It has no docstring."
    return inspect.getdoc(spec.load()) or "It has no docstring."


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "null" if value is None else str(value) or "-"


def _warn_of_failures(found: "Plugins") -> None:
    if found.failures:
        names = ", ".join(failure.source.name for failure in found.failures)
        typer.echo(f"warning: failed to load: {names}; see `mmalign plugins`", err=True)
