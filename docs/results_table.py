"""Write docs/results.md, a row a claim, from runs that are made where they are missing.

    python -m docs.results_table                     make what is missing or outdated, one run at a time; write the page
    python -m docs.results_table --only quickstart   the same for one claim, or for all claims about a config of that name
    python -m docs.results_table --render            write the page alone

docs/results/claims.yaml     the claims (`Claim` below)
docs/results/*.json          what each run found, so that the page needs no run

A run is outdated when what it depends on is not what it was (`docs/results_keys.py`).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat

from docs.results_keys import key
from mmalign import __version__
from mmalign.builtin.files import to_json, write
from mmalign.builtin.statistics import mean, standard_error
from mmalign.document import read
from mmalign.errors import UserError
from mmalign.words import duration, plus_minus

ROOT = Path(__file__).parents[1]

HEAD = """# Results

Written by `make results` from `docs/results/claims.yaml`: it makes the runs that are missing or whose config or code changed.
Ours is the mean over seeds ± one standard error; of a comparison, that of the difference between runs of the same seed. Minutes
are those of the fastest seed, for what else a machine does only adds to them. The commands are those of seed 0.
"""

DERIVED: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "relative_change": lambda number: number["difference"]["mean"] / number["before"]["mean"],
    "decided_win_rate": lambda number: (number["win_rate"] - number["ties"] / 2) / (1 - number["ties"]),
}
"""What may stand at the end of a claim's `number` and is no key of evaluation.json: the change as a share of what was before;
the share of wins among the prompts that do not tie."""


class Checked(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Recipe(Checked):
    """What is run."""

    config: str
    """A config, from the repository's root."""
    overrides: list[str] = []
    """`{seed}` becomes the seed; where none mentions it, `trainer.seed={seed}` is added."""
    version: NonNegativeInt = 0
    """Raised by hand to have it run again."""
    stage: str = ""
    """Of a document with stages: which folder of the run holds the number, for example `1-ppo`; of what is compared, the
    claim's own unless it says another."""

    def given(self, seed: int) -> list[str]:
        """The overrides of a seed."""
        seeded = any("{seed}" in override for override in self.overrides)
        return [
            one.replace("{seed}", str(seed)) for one in [*self.overrides, *([] if seeded else ["trainer.seed={seed}"])]
        ]

    def command(self, seed: int) -> str:
        """What a person types."""
        quoted = [f"'{one}'" if set(one) & set("[{( ") else one for one in self.given(seed)]
        return " ".join(["mmalign train", self.config, *quoted])


class Claim(Recipe):
    """A row of the page."""

    name: str
    """What `--only` calls it."""
    claim: str
    """The sentence."""
    paper: str = ""
    """What the paper reports, in words."""
    number: str
    """Where it stands in evaluation.json, with dots: `rewards.oracle.difference.mean`; or a `DERIVED` number at the end."""
    than: Recipe | None = None
    """Of a comparison, what its number is subtracted."""
    seeds: list[NonNegativeInt] = Field(default=[0, 1, 2], min_length=1)
    """One run each."""
    minutes: PositiveFloat | None = None
    """About how long a run takes, until one was measured."""
    percent: bool = False
    """Show 100 times the number, with %."""

    @property
    def recipes(self) -> list[Recipe]:
        """What it takes: one, or two to compare."""
        return [self, *([self.than] if self.than else [])]


class Run(NamedTuple):
    """One run: a recipe with a seed."""

    recipe: Recipe
    seed: int


class Found(NamedTuple):
    """What a run found, by stage; "" is that of a run without. outdated: its config or code is another now."""

    evaluations: Mapping[str, Any]
    seconds: float
    outdated: bool


class Results:
    """The claims of a repository and what is known of them. train: makes a run, see `train` below."""

    def __init__(self, root: Path, train: "Callable[[Path, Run, str], Mapping[str, Any]]"):
        self.root, self.folder, self.train = root, root / "docs" / "results", train

    @cached_property
    def claims(self) -> list[Claim]:
        """All of them. Raises UserError where two have a name."""
        claims = [Claim.model_validate(row) for row in read(self.folder / "claims.yaml")]
        names = [claim.name for claim in claims]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{self.folder / 'claims.yaml'}: two claims are called {', '.join(sorted(twice))}")
        return claims

    def chosen(self, only: str | None) -> list[Claim]:
        """The claims of that name, or about a config of that name; all without one."""
        chosen = [c for c in self.claims if only is None or only in (c.name, *(Path(r.config).stem for r in c.recipes))]
        if not chosen:
            raise UserError(f"no claim is called '{only}'; there are {', '.join(c.name for c in self.claims)}")
        return chosen

    def file(self, run: Run) -> Path:
        """Where its result is kept."""
        what = json.dumps([run.recipe.config, run.recipe.overrides])
        short = hashlib.sha256(what.encode()).hexdigest()[:6]
        return self.folder / f"{Path(run.recipe.config).stem}-{short}-{run.seed}.json"

    def key(self, run: Run) -> str:
        """A hash of everything that its result depends on."""
        return key(self.root / run.recipe.config, run.recipe.given(run.seed), run.recipe.version)

    def found(self, run: Run) -> Found | None:
        """What it found, if it was made."""
        file = self.file(run)
        if not file.is_file():
            return None
        known = json.loads(file.read_text(encoding="utf-8"))
        return Found(known["evaluations"], known["seconds"], known["key"] != self.key(run))

    def missing(self, claims: Iterable[Claim]) -> list[Run]:
        """The runs that are to be made, each once."""
        runs = {self.file(run): run for claim in claims for recipe in claim.recipes for run in runs_of(claim, recipe)}
        return [run for run in runs.values() if (found := self.found(run)) is None or found.outdated]

    def make(self, run: Run) -> None:
        """Make it and keep what it found."""
        key, start = self.key(run), time.monotonic()
        evaluations = self.train(self.root, run, f"{self.file(run).stem}-{key[:8]}")
        known = {
            "command": run.recipe.command(run.seed),
            "key": key,
            "mmalign": __version__,
            "seconds": round(time.monotonic() - start),
            "evaluations": evaluations,
        }
        write(self.file(run), to_json(known, indent=2) + "\n")

    def page(self) -> str:
        """The whole page."""
        titles = ("claim", "paper", "ours", "seeds", "minutes a run", "command")
        rows = [self.row(claim) for claim in self.claims]
        return "\n".join([HEAD, *map(line, (titles, ["---"] * len(titles), *rows)), ""])

    def row(self, claim: Claim) -> list[str]:
        """One claim's line of the table."""
        columns = [[self.found(run) for run in runs_of(claim, recipe)] for recipe in claim.recipes]
        by_seed = [found for found in zip(*columns, strict=True) if None not in found]
        known = [one for found in by_seed for one in found if one]
        spent = min((own.seconds for own, *_ in by_seed if own), default=60 * (claim.minutes or 0))
        commands = "<br>".join(dict.fromkeys(f"`{recipe.command(0)}`" for recipe in claim.recipes))
        seeds = str(len(claim.seeds)) if len(by_seed) == len(claim.seeds) else f"{len(by_seed)} of {len(claim.seeds)}"
        ours = shown(claim, [numbers(claim, [one.evaluations for one in found if one]) for found in by_seed])
        outdated = " (outdated)" if any(one.outdated for one in known) else ""
        return [claim.claim, claim.paper, ours + outdated, seeds, duration(spent) if spent else "", commands]


def runs_of(claim: Claim, recipe: Recipe) -> list[Run]:
    """A run a seed of the claim."""
    return [Run(recipe, seed) for seed in claim.seeds]


def shown(claim: Claim, by_seed: Sequence[Sequence[float]]) -> str:
    """By seed one number, or two of which the second is subtracted, as text: mean ± standard error."""
    if not by_seed:
        return "not measured"
    values = [(row[0] - row[1] if claim.than else row[0]) * (100 if claim.percent else 1) for row in by_seed]
    text = plus_minus(mean(values), standard_error(values), sign=claim.than is not None)
    return f"({text}) %" if claim.percent and "±" in text else text + " %" * claim.percent


def numbers(claim: Claim, found: Sequence[Mapping[str, Any]]) -> list[float]:
    """The number of a claim, and of what it is compared to, in what their runs of a seed found."""
    stages = (recipe.stage or claim.stage for recipe in claim.recipes)
    return [number(claim, evaluations, stage) for evaluations, stage in zip(found, stages, strict=True)]


def number(claim: Claim, evaluations: Mapping[str, Any], stage: str | None = None) -> float:
    """The number of a claim in a stage, its own if none is named. Raises UserError where there is none."""
    value: Any = evaluations
    for step in (claim.stage if stage is None else stage, *claim.number.split(".")):
        known = value if isinstance(value, Mapping) else {}
        if step not in known and step not in DERIVED:
            raise UserError(
                f"{claim.name}: {claim.number}: no '{step}' here; there is {', '.join(known) or 'a number'}"
            )
        value = known[step] if step in known else DERIVED[step](known)
    return float("nan") if value is None else float(value)


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


# ---- the command


def train(root: Path, run: Run, name: str) -> Mapping[str, Any]:
    """Train in a process of its own, going on where it was interrupted; by stage, what was measured. Raises UserError."""
    folder = root / "runs" / "results" / name
    command = [sys.executable, "-m", "mmalign", "train", run.recipe.config, *run.recipe.given(run.seed)]
    command += [f"name={name}", "folder=runs/results", *(["--resume"] if (folder / "config.yaml").is_file() else [])]
    if code := subprocess.run(command, cwd=root).returncode:
        raise UserError(f"{run.recipe.command(run.seed)} ended with exit code {code}; its folder is {folder}")
    folders = {"": folder, **{one.name: one for one in sorted(folder.iterdir()) if one.is_dir()}}
    return {stage: found for stage, one in folders.items() if (found := measured(one))}


def measured(folder: Path) -> dict[str, Any]:
    """evaluation.json of a run folder; empty without one."""
    file = folder / "evaluation.json"
    evaluation: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return evaluation


def update(results: Results, only: str | None = None, render: bool = False) -> list[str]:
    """Make what is missing, if not only to `render`, and write the page after each run. Returns what failed, in words."""
    failed = []
    missing = [] if render else results.missing(results.chosen(only))
    for count, run in enumerate(missing, start=1):
        print(f"run {count} of {len(missing)}: {run.recipe.command(run.seed)}", flush=True)
        try:
            results.make(run)
        except UserError as error:
            failed.append(str(error))
        write(results.root / "docs" / "results.md", results.page())
    write(results.root / "docs" / "results.md", results.page())
    return failed


def main() -> int:
    """The command line; 1 where a run failed, 2 for a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one claim, or all about a config of that name")
    parser.add_argument("--render", action="store_true", help="write the page alone")
    given = parser.parse_args()
    try:
        failed = update(Results(ROOT, train), given.only or None, given.render)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in failed:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
