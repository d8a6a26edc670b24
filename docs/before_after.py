"""Draw the picture of the README from a finished run: what the model made before and after, and what the oracle says of it.

python docs/before_after.py RUN OUT.png
"""

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LEFT, TOP, BOTTOM = 128, 12, 64, 58, 26
RIGHT, WRONG = "#1a7f37", "#b42318"


def main(run: Path, out: Path) -> None:
    """One column a prompt: its text, the picture before, the picture after."""
    steps = sorted((run / "samples").iterdir())
    rows = [(name, steps[i], _read(steps[i])) for name, i in (("before", 0), ("after", -1))]
    prompts = [row["prompt"] for row in rows[0][2]]
    canvas = Image.new("RGB", (LEFT + len(prompts) * (SIDE + GAP), TOP + 2 * (SIDE + BOTTOM)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, prompt in enumerate(prompts):
        x = LEFT + column * (SIDE + GAP)
        draw.multiline_text((x, 6), textwrap.fill(prompt, 20), fill="black", font=font)
        for number, (_, folder, samples) in enumerate(rows):
            y = TOP + number * (SIDE + BOTTOM)
            picture = Image.open(folder / samples[column]["sample"]).convert("RGB")
            canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, y))
            right = samples[column]["scores"]["oracle"] == 1
            draw.text((x, y + SIDE + 3), "right" if right else "wrong", fill=RIGHT if right else WRONG, font=font)
    for number, (name, _, _) in enumerate(rows):
        draw.text((6, TOP + number * (SIDE + BOTTOM) + SIDE // 2 - 8), name, fill="black", font=font)
    canvas.save(out, optimize=True)


def _read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
