"""About how many samples the run's rewards were asked while it trained: what its gain has cost, where scores are expensive.

evaluation.json      {"queries": N}, of all processes; samples of `collect` are not among them, for they were scored before
"""

from typing import TYPE_CHECKING

from mmalign.builtin.files import add, read_rows
from mmalign.hookspecs import hookimpl

if TYPE_CHECKING:
    from mmalign.run import Run


@hookimpl
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """Add up what every update has asked."""
    if error is None and run.is_main:
        asked = sum(row.get("queries", 0) for row in read_rows(run.folder / "metrics.jsonl"))
        if asked:
            add(run.folder / "evaluation.json", queries=round(asked * run.engine.world))
