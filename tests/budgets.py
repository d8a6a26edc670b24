"""Size budgets of the code, printed by `make check`. A number is raised only with a reason beside it."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

FILE_LINES = {"mmalign/loop.py": 150}
FOLDER_LINES = {"mmalign/objectives": 60}
ANY_FILE = 400
MEDIAN_FUNCTION = 12
P90_FUNCTION = 40


def lines(path: Path) -> int:
    """Newlines of a file."""
    return path.read_text(encoding="utf-8").count("\n")


def function_sizes(path: Path) -> list[int]:
    """Lines of each function, from `def` to its last line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.end_lineno - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, functions)]


def limit(path: Path) -> int:
    """How long a file may be."""
    by_folder = next((n for folder, n in FOLDER_LINES.items() if path.as_posix().startswith(folder)), ANY_FILE)
    return FILE_LINES.get(path.as_posix(), by_folder)


def main() -> int:
    """Print the budgets; 1 when one is broken."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], capture_output=True, text=True, check=True
    )
    files = [Path(name) for name in listed.stdout.split() if not name.startswith("tests/") and Path(name).is_file()]
    sizes = sorted(size for path in files for size in function_sizes(path))
    median, p90 = statistics.median(sizes), sizes[int(0.9 * len(sizes))]
    faults = [f"{path}: {lines(path)} lines, at most {limit(path)}" for path in files if lines(path) > limit(path)]
    faults += [f"median function {median} lines, at most {MEDIAN_FUNCTION}"] if median > MEDIAN_FUNCTION else []
    faults += [f"90th percentile function {p90} lines, at most {P90_FUNCTION}"] if p90 > P90_FUNCTION else []
    total = sum(map(lines, files))
    print(
        f"budgets: {len(files)} files, {total} lines; functions: median {median}, 90th percentile {p90}, longest {sizes[-1]}"
    )
    print("\n".join(faults) if faults else "budgets: kept")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
