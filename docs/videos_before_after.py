"""Draw the second picture of the README from a finished run on videos: the contact sheets before and after, side by side.

python docs/videos_before_after.py RUN OUT.jpg
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, GAP, TOP = 720, 16, 24
FONT = ImageFont.load_default(14)


def main(run: Path, out: Path) -> None:
    """Each line is a video, its frames from left to right."""
    steps = sorted((run / "samples").iterdir())
    sheets = [Image.open(step / "grid.png").convert("RGB") for step in (steps[0], steps[-1])]
    height = round(sheets[0].height * WIDTH / sheets[0].width)
    canvas = Image.new("RGB", (2 * WIDTH + GAP, TOP + height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (name, sheet) in enumerate(zip(("before", "after"), sheets, strict=True)):
        x = number * (WIDTH + GAP)
        draw.text((x, 2), name, fill="black", font=FONT)
        canvas.paste(sheet.resize((WIDTH, height), Image.Resampling.LANCZOS), (x, TOP))
    canvas.save(out, optimize=True, quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
