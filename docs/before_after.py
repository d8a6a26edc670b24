"""Draw the picture of the README from a finished run: the shown prompts whose verdict changed, before and after, in their order.

python docs/before_after.py RUN OUT.png
"""

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LEFT, TOP, BOTTOM = 112, 12, 64, 58, 26
BAND = TOP + 2 * (SIDE + BOTTOM)
COLUMNS = 8
FONT = ImageFont.load_default(12)
RIGHT, WRONG = "#1a7f37", "#b42318"


def main(run: Path, out: Path) -> None:
    """One column a prompt: its text, the picture before, the picture after; `COLUMNS` of them side by side."""
    steps = sorted((run / "samples").iterdir())
    before, after = _read(steps[0]), _read(steps[-1])
    changed = [pair for pair in zip(before, after, strict=True) if _right(pair[0]) != _right(pair[1])]
    bands = -(-len(changed) // COLUMNS)
    canvas = Image.new("RGB", (LEFT + COLUMNS * (SIDE + GAP), bands * BAND), "white")
    draw = ImageDraw.Draw(canvas)
    for i, pair in enumerate(changed):
        x, y = LEFT + i % COLUMNS * (SIDE + GAP), i // COLUMNS * BAND
        draw.multiline_text((x, y + 6), textwrap.fill(pair[0]["prompt"], 19), fill="black", font=FONT)
        for number, (folder, row) in enumerate(zip((steps[0], steps[-1]), pair, strict=True)):
            top = y + TOP + number * (SIDE + BOTTOM)
            picture = Image.open(folder / row["sample"]).convert("RGB")
            canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, top))
            verdict, colour = ("right", RIGHT) if _right(row) else ("wrong", WRONG)
            draw.text((x, top + SIDE + 3), verdict, fill=colour, font=FONT)
    for band in range(bands):
        for number, name in enumerate(("before", "after")):
            y = band * BAND + TOP + number * (SIDE + BOTTOM) + SIDE // 2 - 8
            draw.text((6, y), name, fill="black", font=FONT)
    canvas.save(out, optimize=True)


def _right(row: dict) -> bool:
    return row["scores"]["oracle"] == 1


def _read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
