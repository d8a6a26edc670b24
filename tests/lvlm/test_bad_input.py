"""Pictures and texts that cannot be used: one sentence, exit code 2, no traceback; and nothing large is decoded."""

import json
import re
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign.errors import UserError
from mmalign_lvlm import pictures

CONFIG = """
name: small
folder: {folder}/runs
model: {{type: vlm, path: {llava}, adapter: {{rank: 2}}}}
data: {{type: text-pairs, path: {folder}/rows.jsonl}}
objective: dpo
trainer: {{steps: 1, batch_size: 1}}
"""


def png(width: int, height: int) -> bytes:
    """A picture that says how large it is and holds no pixels: reading them would fail in other words than its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


WRONG = {
    "missing": (None, {}, r"no such picture: .*shown\.png"),
    "corrupt": (b"no picture", {}, r"cannot read picture .*shown\.png .*replace the file or remove its row"),
    "cut off": ("half", {}, r"cannot read picture .*shown\.png"),
    "of zero bytes": (b"", {}, r"cannot read picture .*shown\.png"),
    "of 100 megapixels": (png(10_000, 10_000), {}, r"shown\.png has 10000 x 10000 pixels; .*1 to 64 million"),
    "a bomb": (png(60_000, 60_000), {}, r"shown\.png is too large .*3600000000 pixels.*1 to 64 million"),
    "too many": ("red", {"prompt": [{"role": "user", "content": [{"type": "image"}] * 2}]}, "shows 2 pictures, but.*1"),
    "a placeholder in words": ("red", {"prompt": "a <image>"}, r"holds <image>.*`images`"),
    "an empty response": ("red", {"chosen": " "}, "row 1: an answer is empty: write it, or leave the row out"),
    "a file for frames": ("red", {"videos": ["moving.mp4"]}, "`videos` holds a list of frames for each video"),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_one_sentence(name: str, llava: Path, tmp_path: Path) -> None:
    shown, changed, told = WRONG[name]
    path = tmp_path / "shown.png"
    Image.new("RGB", (20, 20), "red").save(path)
    if shown is None:
        path.unlink()
    elif shown != "red":
        path.write_bytes(path.read_bytes()[:-30] if shown == "half" else shown)
    row = {"prompt": "what is this", "images": [path.name], "chosen": "a red circle", "rejected": "no", **changed}
    refused(json.dumps(row).encode(), told, llava, tmp_path)


def test_text_that_is_not_utf_8(llava: Path, tmp_path: Path) -> None:
    refused('{"prompt": "é", "chosen": "a", "rejected": "b"}'.encode("latin-1"), "(?i)utf-?8", llava, tmp_path)


def refused(row: bytes, told: str, llava: Path, folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(row + b"\n")
    config = folder / "small.yaml"
    config.write_text(CONFIG.format(folder=folder, llava=llava))
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    said = " ".join(done.stderr.split())
    assert re.search(told, said), said


def test_pictures_have_pixels_and_not_too_many() -> None:
    with pytest.raises(UserError, match=r"has 4 x 0 pixels"):
        pictures.read(torch.zeros(3, 0, 4))
    with pytest.raises(UserError, match=r"in 57 bytes of data has 8001 x 8000 pixels"):
        pictures.read(png(8001, 8000))
    with pytest.raises(UserError, match="cannot read picture in"):
        pictures.read(png(0, 8))
