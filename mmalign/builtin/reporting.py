"""Write `report.html` when a run is over, however it ended."""

from collections.abc import Generator
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.run import Run


@hookimpl(wrapper=True)
def mmalign_run_end(run: "Run", error: BaseException | None) -> Generator[None, Any, Any]:
    """After everybody else, so that the last evaluation and every warning are in it."""
    try:
        return (yield)
    finally:
        if run.is_main:
            from mmalign.report import write

            # What ended a run matters more than a report that could not be written for that reason.
            with nullcontext() if error is None else suppress(Exception):
                write([run.folder])
