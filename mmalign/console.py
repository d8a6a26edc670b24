"""Where a run talks to a person: bars on a terminal, plain lines on a pipe."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mmalign.words import duration

if TYPE_CHECKING:
    from mmalign.run import Run

CONSOLE = Console(highlight=False)
"""One console for all, so that a bar within a bar is drawn below it."""

ASIDE = Console(highlight=False, stderr=True)
"""For commands whose output is a result that a program may read."""

QUIET = 30.0
"""Seconds of long work on a pipe after which it says a line."""

T = TypeVar("T")


def say(text: str, style: str = "", console: Console | None = None) -> None:
    """One line, never wrapped and never read as markup."""
    (console or CONSOLE).print(text, style=style, markup=False, soft_wrap=True)


def warn(run: "Run", message: str) -> None:
    """Keep a warning for the report and say it now, on the main process."""
    run.warn(message)
    if run.is_main:
        say(f"warning: {message}", style="yellow")


def track(items: Sequence[T], what: str, console: Console | None = None) -> Iterator[T]:
    """Go through `items` and show how far it is: a bar with the time left, or now and then a line."""
    console = console or CONSOLE
    return _bar(items, what, console) if console.is_terminal else _lines(items, what, console)


def _bar(items: Sequence[T], what: str, console: Console) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield from progress.track(items, description=what)


def _lines(items: Sequence[T], what: str, console: Console) -> Iterator[T]:
    said = start = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said > QUIET:
            left = (now - start) / done * (len(items) - done)
            say(f"{what}: {done}/{len(items)}, {duration(left)} left", console=console)
            said = now
        yield item
