"""A contact sheet: of each video some of its frames in a row, under its prompt."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmalign_diffusion.pictures import to_image

_GAP, _TEXT, _LEAST = 2, 18, 96
"""Pixels between frames, for a line of text, and how wide a frame is shown at least."""


def sheet(media: Tensor, captions: Sequence[str], columns: int = 8) -> Image.Image:
    """Videos `[B, F, 3, H, W]` in [0, 1], one a line; at most `columns` frames of each, evenly spaced, the first and last among
    them. Small frames are enlarged, with their pixels."""
    frames = media[:, spaced(media.shape[1], columns)]
    enlarge = max(1, -(-_LEAST // media.shape[-1]))
    height, width = media.shape[-2] * enlarge + _GAP, media.shape[-1] * enlarge + _GAP
    drawn = Image.new("RGB", (frames.shape[1] * width - _GAP, len(media) * (height + _TEXT)), "white")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=12)
    for line, (video, caption) in enumerate(zip(frames, captions, strict=True)):
        top = line * (height + _TEXT)
        pen.text((1, top + 2), _fitted(caption, font, drawn.width - 2), fill="black", font=font)
        for column, frame in enumerate(video):
            picture = to_image(frame)
            larger = picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST)
            drawn.paste(larger, (column * width, top + _TEXT))
    return drawn


def spaced(frames: int, most: int) -> list[int]:
    """At most `most` of the indices of `frames` frames, evenly spaced, the first and the last among them."""
    if frames <= most:
        return list(range(frames))
    return [round(i * (frames - 1) / (most - 1)) for i in range(most)]


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """One line of the text, cut off where it does not fit."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line} …") > width:
        line = line[:-1]
    return f"{line.rstrip()} …"
