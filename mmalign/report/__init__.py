"""`report.html`: what one run did, or several side by side, in one file that needs neither network nor script."""

from collections.abc import Sequence
from pathlib import Path

from mmalign.builtin import files
from mmalign.errors import UserError


def write(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of run folders and return where it is.

    out: by default `report.html` in the folder of a single run, `comparison.html` here for several.
    Raises UserError for a folder that is no run. Runs without end, evaluation or pictures are reported as they are.
    """
    from mmalign.report.page import render
    from mmalign.report.reading import read

    if not runs:
        raise UserError("name at least one run folder, for example runs/quickstart")
    page = render([read(Path(folder)) for folder in runs])
    default = Path(runs[0]) / "report.html" if len(runs) == 1 else Path("comparison.html")
    target = out or default
    files.write(target, page)
    return target
