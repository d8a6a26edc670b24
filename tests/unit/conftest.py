"""What tests of several subjects need."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path):
    """Writes rows and returns their file."""

    def written(*rows: dict) -> str:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return written
