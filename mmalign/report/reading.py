"""Read a run folder, as far as it is there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mmalign.builtin.files import read_rows, scores_of, step_of
from mmalign.errors import UserError

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """What a run folder holds.

    metrics, timing: a row a step. scores: by step, then by reward, one score a prompt.
    rewards: those of `evaluation.json`, by name, and `metric/number` with the role "metric" beside them.
    samples: by step, the rows of its manifest. guided: those of what was sampled under guidance where nothing trained.
    held_out: a row each time that rows which are not trained on were measured.
    """

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    metrics: Rows
    timing: Rows
    scores: Mapping[int, Mapping[str, list[float]]]
    rewards: Mapping[str, Any]
    samples: Mapping[int, Rows]
    guided: Rows
    held_out: Rows
    warnings: list[str]
    environment: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the config calls it."""
        return str(self.config.get("name", self.folder.name))

    @property
    def done(self) -> int:
        """The last step that was made."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned(self) -> int:
        """How many steps the config asks for."""
        return int(self.option("trainer", "steps") or self.done)

    @property
    def finished(self) -> bool:
        """Whether a result was saved."""
        return (self.folder / "model").is_dir()

    def option(self, *keys: str) -> Any:
        """A value of the config, or None where it has none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read(folder: Path) -> Record:
    """Read the run in `folder`. Raises UserError when there is none, or when one of its files is broken."""
    config = folder / "config.yaml"
    if not config.is_file():
        what = "holds no config.yaml" if folder.is_dir() else "is not there"
        raise UserError(f"{folder} is no run folder: it {what}; name one such as runs/quickstart")
    text = config.read_text(encoding="utf-8")
    evaluations = sorted((folder / "evaluation").glob("step-*.jsonl"))
    samples = sorted((folder / "samples").glob("step-*/samples.jsonl"))
    return Record(
        folder=folder,
        config=_yaml(config, text),
        config_text=text,
        metrics=read_rows(folder / "metrics.jsonl"),
        timing=read_rows(folder / "timing.jsonl"),
        scores={step_of(path): scores_of(read_rows(path)) for path in evaluations},
        rewards=_compared(_json(folder / "evaluation.json")),
        samples={step_of(path.parent): read_rows(path) for path in samples},
        guided=read_rows(folder / "samples" / "guided" / "samples.jsonl"),
        held_out=read_rows(folder / "held_out.jsonl"),
        warnings=list(dict.fromkeys(row["message"] for row in read_rows(folder / "warnings.jsonl"))),
        environment=_json(folder / "environment.json"),
    )


def _compared(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards, and the numbers of metrics, which nobody wins."""
    metrics = {
        f"{metric}/{name}": {"role": "metric", "win_rate": None, **number}
        for metric, numbers in evaluation.get("metrics", {}).items()
        for name, number in numbers.items()
    }
    return {**evaluation.get("rewards", {}), **metrics}


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    return value


def _yaml(path: Path, text: str) -> Mapping[str, Any]:
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    return value if isinstance(value, Mapping) else {}
