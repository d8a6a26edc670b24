"""mmalign's command line for tests: within the test's own process, or as a process of its own, which may be killed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from mmalign.cli import app


class Done(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def here(*arguments: str | Path) -> Done:
    """Runs it within this process, where all is imported already. What would be a traceback is raised."""
    words = [str(argument) for argument in arguments]
    outcome = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    return Done(outcome.exit_code, outcome.stdout, outcome.stderr)


def apart(*arguments: str | Path) -> Done:
    """Runs it as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "mmalign", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return Done(done.returncode, done.stdout, done.stderr)
