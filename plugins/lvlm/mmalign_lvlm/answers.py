"""Answers as files that people can open."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmalign.records import Samples


def write(samples: Samples, folder: Path) -> Sequence[Path]:
    """Write each answer as `0000.txt`, `0001.txt`, ... and all of them as `responses.jsonl`. Returns the former."""
    paths = [folder / f"{index:04d}.txt" for index in range(len(samples))]
    for path, response in zip(paths, samples.responses, strict=True):
        path.write_text(response, encoding="utf-8")
    lines = [json.dumps(_row(samples, index), ensure_ascii=False) + "\n" for index in range(len(samples))]
    (folder / "responses.jsonl").write_text("".join(lines), encoding="utf-8")
    return paths


def _row(samples: Samples, index: int) -> dict[str, Any]:
    prompt = samples.prompts[index]
    # Pictures that are no files have no name to write.
    images = [str(image) for image in prompt.images if isinstance(image, str | Path)]
    row: dict[str, Any] = {"prompt": prompt.text, "images": images, "response": samples.responses[index]}
    return {**row, "seed": samples.seeds[index]} if samples.seeds else row
