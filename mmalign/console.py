"""Where a run talks to a person: bars on a terminal, plain lines on a pipe."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mmalign.words import duration

if TYPE_CHECKING:
    from mmalign.run import Run

CONSOLE = Console(highlight=False)
"""One console for all, so that a bar within a bar is drawn below it."""

QUIET = 30.0
"""Seconds of long work on a pipe after which it says a line."""

T = TypeVar("T")


def say(text: str, style: str = "") -> None:
    """One line, never wrapped and never read as markup."""
    CONSOLE.print(text, style=style, markup=False, soft_wrap=True)


def warn(run: "Run", message: str) -> None:
    """Keep a warning for the report and say it now, on the main process."""
    run.warn(message)
    if run.is_main:
        say(f"warning: {message}", style="yellow")


@contextmanager
def aside(wanted: bool) -> Iterator[None]:
    """Within it all of this goes to stderr, if `wanted`: what is printed for machines stands alone."""
    before, CONSOLE.stderr = CONSOLE.stderr, wanted or CONSOLE.stderr
    try:
        yield
    finally:
        CONSOLE.stderr = before


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """Go through `items` and show how far it is: a bar with the time left, or now and then a line."""
    return _bar(items, what) if CONSOLE.is_terminal else _lines(items, what)


def _bar(items: Sequence[T], what: str) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=CONSOLE, transient=True) as progress:
        yield from progress.track(items, description=what)


def _lines(items: Sequence[T], what: str) -> Iterator[T]:
    said = start = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - said > QUIET:
            left = (now - start) / done * (len(items) - done)
            say(f"{what}: {done}/{len(items)}, {duration(left)} left")
            said = now
        yield item
