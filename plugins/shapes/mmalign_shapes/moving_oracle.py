"""The oracle of videos: follows what is in the frames and says how good a video is, in three dimensions of 0 to 1.

VQ   visual quality: the share of frames that are clean, in which every thing keeps its colour, shape and size
MQ   motion quality: how even the steps are from frame to frame, on average; a step that is off by `_ROUGH` pixels counts 0
TA   text alignment: the share of colour, shape and motion that is as the caption says, over its things and those too many

VQ and MQ do not know the caption: what stays evenly where it is moves perfectly well. A frame is read where the picture oracle is
sure of it; a video of which less than half of the frames is read is unsure, and its MQ and TA are 0 rather than guessed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmalign_shapes.moving import MOTIONS, Mover
from mmalign_shapes.moving_captions import Movers, read
from mmalign_shapes.oracle import look
from mmalign_shapes.scenes import SIZE, Kind, Thing

DIMENSIONS = ("VQ", "MQ", "TA")

_EVEN, _ROUGH = 0.6, 2.0
"""By how many pixels a step may be off the usual one and still count as even, and from where on it counts nothing."""
_MOVING = 1.0
"""Pixels a frame below which a thing stays."""
_SAME_RADIUS = 1.5
_SAME_COLOR = 30.0
"""How far, in grey levels, a thing's colour may be from its usual one."""
_REACH = 2.0
"""How far beyond a thing its soft edge may lie."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """One thing through the frames that were read, `n` of them.

    things: what it looked like. centres: where it was `[n, 2]`, to a tenth of a pixel. colors: in grey levels `[n, 3]`.
    """

    frames: tuple[int, ...]
    things: tuple[Thing, ...]
    centres: Floats
    colors: Floats

    @property
    def kind(self) -> Kind:
        """What it is in most frames."""
        return Counter(thing.kind for thing in self.things).most_common(1)[0][0]

    @property
    def steps(self) -> Floats:
        """`[<= n - 1, 2]`: pixels a frame, past frames in which it looks otherwise and so seems to be elsewhere."""
        usual = self.steady if 2 * self.steady.sum() > len(self.frames) else np.ones_like(self.steady)
        return np.diff(self.centres[usual], axis=0) / np.diff(np.array(self.frames)[usual])[:, None]

    @property
    def velocity(self) -> Floats:
        """`[2]`: the median slope between any two frames (Theil and Sen), which jumps and trembling hardly change."""
        pairs = list(combinations(range(len(self.frames)), 2))
        slopes = [(self.centres[j] - self.centres[i]) / (self.frames[j] - self.frames[i]) for i, j in pairs]
        return np.median(slopes, axis=0)

    @property
    def motion(self) -> str | None:
        """What it does; None for a slant, which is no motion of ours."""
        slower, speed = sorted(np.abs(self.velocity))
        if speed < _MOVING:
            return "stays"
        ways = {way: name for name, way in MOTIONS.items()}
        x, y = np.where(np.abs(self.velocity) == speed, np.sign(self.velocity), 0)
        return ways[int(x), int(y)] if speed > 2 * slower else None

    @property
    def evenness(self) -> float:
        """How even its steps are, in 0 to 1."""
        off = np.linalg.norm(self.steps - np.median(self.steps, axis=0), axis=1)
        return float(((_ROUGH - off) / (_ROUGH - _EVEN)).clip(0, 1).mean())

    @property
    def steady(self) -> NDArray[np.bool_]:
        """`[n]`: in which frames it looks as it usually does."""
        radii = np.array([thing.radius for thing in self.things])
        same_kind = np.array([thing.kind == self.kind for thing in self.things])
        same_size = np.abs(radii - np.median(radii)) <= _SAME_RADIUS
        return same_kind & same_size & (np.abs(self.colors - np.median(self.colors, axis=0)) <= _SAME_COLOR).all(axis=1)


@dataclass(frozen=True)
class Quality:
    """What the oracle says of a video; the dimensions lie in 0 to 1."""

    VQ: float
    MQ: float
    TA: float
    unsure: bool
    right: tuple[Track, ...] = ()
    """The things that are just as the caption says and look the same throughout."""

    def stays(self) -> Tensor:
        """`[64, 64]`: 1 wherever a thing that is right is seen in any frame, soft edges included."""
        kept = torch.zeros(SIZE, SIZE)
        for thing in (thing for track in self.right for thing in track.things):
            kept[_span(thing.y, thing.radius + _REACH), _span(thing.x, thing.radius + _REACH)] = 1
        return kept


def watch(video: Tensor) -> tuple[Track, ...]:
    """What is in a video `[F, 3, 64, 64]` in [0, 1], followed through the frames that can be read; nothing if they are too few.

    A frame is read if the picture oracle is sure of it and it shows as many things as most.
    """
    seen = {frame: look(pixels) for frame, pixels in enumerate(video)}
    shown = {frame: one.things for frame, one in seen.items() if one.sure and one.things}
    count = Counter(map(len, shown.values())).most_common(1)[0][0] if shown else 0
    rows = [(frame, things) for frame, things in shown.items() if len(things) == count]
    if 2 * len(rows) <= len(video):
        return ()
    images = video.detach().cpu().double().permute(0, 2, 3, 1).numpy() * 255
    frames = tuple(frame for frame, _ in rows)
    return tuple(
        _track(images, frames, things) for things in zip(*_followed([things for _, things in rows]), strict=True)
    )


def rate(video: Tensor, caption: str | Movers) -> Quality:
    """How good one video `[F, 3, 64, 64]` in [0, 1] is for a caption. Raises ValueError outside the grammar."""
    claim = read(caption) if isinstance(caption, str) else caption
    tracks = watch(video)
    if not tracks:
        return Quality(0.0, 0.0, 0.0, unsure=True)
    clean = np.logical_and.reduce([track.steady for track in tracks])
    evenness = float(np.mean([track.evenness for track in tracks]))
    right = tuple(one for one in tracks if one.steady.all() and any(_agreement(one, mover) == 1 for mover in claim))
    return Quality(float(clean.sum()) / len(video), evenness, _aligned(tracks, claim), unsure=False, right=right)


def _followed(rows: Sequence[tuple[Thing, ...]]) -> list[tuple[Thing, ...]]:
    """The things of each frame in the order of the first: each is the one that is nearest to where it was before."""
    ordered = [rows[0]]
    for things in rows[1:]:
        ordered.append(min(permutations(things), key=lambda chosen: _distance(ordered[-1], chosen)))
    return ordered


def _distance(before: Sequence[Thing], after: Sequence[Thing]) -> float:
    return sum(np.hypot(a.x - b.x, a.y - b.y) for a, b in zip(before, after, strict=True))


def _track(images: Floats, frames: tuple[int, ...], things: tuple[Thing, ...]) -> Track:
    measured = [_measured(images[frame], thing) for frame, thing in zip(frames, things, strict=True)]
    centres, colors = zip(*measured, strict=True)
    return Track(frames, things, np.stack(centres), np.stack(colors))


def _measured(image: Floats, thing: Thing) -> tuple[Floats, Floats]:
    """The centre of gravity of a thing `[2]`, which the soft edge makes exact, and the colour of its middle `[3]`.

    In one shape's centre of gravity and the middle of its box differ, but by the same in each frame.
    """
    box = tuple(_span(centre, thing.radius + _REACH) for centre in (thing.y, thing.x))
    middle = tuple(_span(centre, 0.3 * thing.radius) for centre in (thing.y, thing.x))
    weights = np.abs(image[box] - np.median(image[::2, ::2].reshape(-1, 3), axis=0)).sum(axis=2)
    weights = (weights - 0.1 * weights.max()).clip(0)
    y, x = (np.arange(SIZE)[span] + 0.5 for span in box)
    centre = np.array([(weights.sum(axis=0) * x).sum(), (weights.sum(axis=1) * y).sum()]) / weights.sum()
    return centre, image[middle].reshape(-1, 3).mean(axis=0)


def _span(centre: float, reach: float) -> slice:
    return slice(max(0, round(centre - reach)), min(SIZE, round(centre + reach)))


def _aligned(tracks: Sequence[Track], claim: Movers) -> float:
    """The share of what is claimed that is so, each thing taken for the one that it fits best; things too many count as wrong."""
    size = max(len(tracks), len(claim))
    padded = [*tracks, *[None] * (size - len(tracks))]
    best = max(sum(map(_agreement, chosen, claim)) for chosen in permutations(padded, len(claim)))
    return best / size


def _agreement(track: Track | None, mover: Mover) -> float:
    """Of colour, shape and motion, the share that is as claimed."""
    if track is None:
        return 0.0
    right = (track.kind.color == mover.kind.color, track.kind.shape == mover.kind.shape, track.motion == mover.motion)
    return sum(right) / 3
