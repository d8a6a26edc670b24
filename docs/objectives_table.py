"""Write docs/objectives.md: which objective trains which kind of model, and what tests it.

    python docs/objectives_table.py

A cell is ticked where a test that is marked `covers` with that objective and process passes; these tests are run.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mmalign import plugins
from mmalign.processes import PROCESSES, process_class
from mmalign.specs import ObjectiveSpec

ROOT = Path(__file__).parents[1]
Cells = Mapping[tuple[str, str], Sequence[str]]

HEAD = """# Objectives

Written by `docs/objectives_table.py`. Each is a file in `mmalign/objectives/`; `mmalign describe objective NAME` prints its
formula, its source and its options.

✓ a test of it passes · untested: the model offers what the objective needs, but no test of it passes · –: it does not
"""


class Passed:
    """A pytest plugin that notes what each test that passes covers: (objective, process) -> names of tests."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._covered: dict[str, list[tuple[str, str]]] = {}

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Read the marker `covers` of every test."""
        self._covered = {item.nodeid: [mark.args for mark in item.iter_markers("covers")] for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that passes; one that is skipped or expected to fail does not."""
        if report.when == "call" and report.passed:
            for cell in self._covered[report.nodeid]:
                self.cells[cell].append(report.nodeid.split("[")[0])


def row(spec: ObjectiveSpec, cells: Cells) -> str:
    """One objective's line of the table."""
    reward = {"none": "", "any": "; any reward", "differentiable": "; a differentiable reward"}[spec.reward]
    paper = spec.paper.removeprefix("arXiv:")
    link = f"[{paper}](https://arxiv.org/abs/{paper})" if paper else ""
    ticks = [cell(spec, process, cells) for process in PROCESSES]
    return line(f"`{spec.name}`", link, words(spec.columns), words(spec.needs) + reward, *ticks)


def cell(spec: ObjectiveSpec, process: str, cells: Cells) -> str:
    """Whether a process offers what an objective needs, and whether a test of that passes."""
    if not spec.needs <= process_class(process).offers:
        return "–"
    return "✓" if cells.get((spec.name, process)) else "untested"


def line(*columns: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(columns)} |"


def words(names: frozenset[str]) -> str:
    """Names in order, with commas."""
    return ", ".join(sorted(names))


def page(specs: Sequence[ObjectiveSpec], cells: Cells) -> str:
    """The whole page."""
    titles = ["objective", "paper", "rows", "needs", *PROCESSES]
    table = [line(*titles), line(*["---"] * len(titles)), *(row(spec, cells) for spec in specs)]
    tests = sorted({f"- `{test}`" for covering in cells.values() for test in covering})
    return "\n".join([HEAD, *table, "", "Covered by", "", *tests, ""])


def main() -> None:
    """Run the tests and write the page."""
    passed = Passed()
    pytest.main(["-m", "covers", "-q", "--no-header", str(ROOT / "tests")], plugins=[passed])
    offers = plugins.load(installed=False).catalogue.offers("objective")
    (ROOT / "docs" / "objectives.md").write_text(
        page([offer.spec for offer in offers.values()], passed.cells), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
