"""Davidsonian scene graphs: what a prompt says, fact by fact, and whether a video shows it. Cho et al. 2023, arXiv:2310.18235; as
VideoRepair asks it, Lee et al. 2024, arXiv:2411.15115.

    r = # facts that are true / # facts

A judge lists what the prompt says: that a thing is there, what it is like, how it stands to another. A judge is shown frames of
the video and says of each fact whether it is true; nothing is true of a thing that is not there.

A detector finds what may stay when the rest is drawn again (`mmalign.samplers.repair`): the boxes, in any of the frames, of
things of which everything is true, less the boxes of those of which something is false.

Where it differs: VideoRepair asks of the first frame alone, and keeps there what a language model chooses: one kind of thing, so
many of it, pointed at by a vision-language model (Molmo) and cut out by a segmenter (Semantic-SAM). Here it is all that is right,
as boxes, so that some of the background stays with it.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from mmalign.records import Answer, Fact, Prompt, Samples, Scores
from mmalign.rewards.generated import judge_of
from mmalign.rewards.shared import shared
from mmalign_video.rewards.detector import Detector

_THING = re.compile(r"There is (an? (.+))\.")
_NAMED = re.compile(r"\b(?:There is an?|[Tt]he) (.+?)(?= is |\.$)")
"""Facts have the forms "There is a dog.", "The dog is brown." and "The dog is beside the child."."""


class SceneGraph:
    """The share of what a prompt says that a judge finds true of a video, or of a picture, in [0, 1].

    judge: who says whether a fact is true, written as the `judge` of a config; it sees frames as pictures, in their order.
    facts: who lists what a prompt says; the judge itself by default.
    detector: what finds things by their names, an open-vocabulary detector of transformers such as OWLv2 or Grounding DINO;
        without one nobody knows what may stay.
    threshold: how sure the detector is of a box that counts.
    frames: how many of a video are looked at, evenly spread from the first to the last.
    """

    def __init__(
        self,
        judge: dict[str, Any],
        facts: dict[str, Any] | None = None,
        detector: str | None = None,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.2,
        frames: PositiveInt = 4,
    ):
        self.judge = judge_of(judge, "judge", {"verdicts"} if facts else {"facts", "verdicts"})
        self.lister = judge_of(facts, "facts", {"facts"}) if facts else self.judge
        key = ("detector", detector, threshold)
        self.detector = shared(key, lambda: Detector(str(detector), threshold)) if detector else None
        self.frames = frames
        self._listed: dict[str, Sequence[Fact]] = {}

    def to(self, device: torch.device | str) -> Self:
        """Move the weights, of those that have any."""
        for one in (self.judge, self.lister, self.detector):
            if hasattr(one, "to"):
                one.to(device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]`; NaN for a prompt of which nobody can tell what it says, for a fact without verdict, and for NaN pixels.

        dimensions: `facts`, how many; `true`, how many of them are. places: what may stay, where there is a detector.
        """
        media = samples.media if samples.media.ndim == 5 else samples.media[:, None]
        shown = [spread(one, self.frames) for one in media]
        listed = [self._facts(text) for text in samples.texts]
        told = self._told(shown, listed)
        true = [truths(facts, said) for facts, said in zip(listed, told, strict=True)]
        count = torch.tensor([float(len(facts)) for facts in listed], device=media.device)
        right = torch.tensor([float(sum(one)) for one in true], device=media.device)
        known = samples.finite
        known &= torch.tensor([bool(said) and "none" not in said for said in told], dtype=torch.bool).to(known.device)
        values = torch.where(known, right / count.clamp(min=1), torch.nan)
        places = [self._stays(*one) for one in zip(shown, listed, true, strict=True)] if self.detector else None
        return Scores(values, {"facts": count, "true": right}, places=torch.stack(places) if places else None)

    def _facts(self, text: str) -> Sequence[Fact]:
        """What a prompt says, the same each time; nothing where that cannot be told."""
        if text not in self._listed:
            ((found,),) = self.lister.facts([Answer(Prompt(text), text, [(0, len(text))])])
            self._listed[text] = found or ()
        return self._listed[text]

    def _told(self, shown: Sequence[Tensor], listed: Sequence[Sequence[Fact]]) -> list[list[str]]:
        """By sample and fact what the judge says. shown: the frames of each, `[F, 3, H, W]`."""
        asked = [Prompt("", images=list(frames)) for frames in shown]
        questions = [(prompt, fact) for prompt, facts in zip(asked, listed, strict=True) for fact in facts]
        verdicts = iter(self.judge.verify(questions))
        return [[next(verdicts).said for _ in facts] for facts in listed]

    def _stays(self, frames: Tensor, facts: Sequence[Fact], true: Sequence[bool]) -> Tensor:
        """`[H, W]`: 1 where right things are in any of the frames, and none that is there and wrong."""
        right, wrong = planned(facts, true)
        assert self.detector is not None
        return (self.detector.covered(frames, right) & ~self.detector.covered(frames, wrong)).float()


def truths(facts: Sequence[Fact], said: Sequence[str]) -> list[bool]:
    """Which facts are true: those of which the judge says "yes", unless they are about a thing that is not there."""
    absent = [name for (_, name), answer in zip(map(_thing, facts), said, strict=True) if name and answer != "yes"]
    return [
        answer == "yes" and not any(about(fact, name) for name in absent)
        for fact, answer in zip(facts, said, strict=True)
    ]


def planned(facts: Sequence[Fact], true: Sequence[bool]) -> tuple[list[str], list[str]]:
    """The things that are there, as "a dog": those of which everything is true, and those of which something is false."""
    right, wrong = [], []
    for fact, there in zip(facts, true, strict=True):
        shown, name = _thing(fact)
        if name and there:
            whole = all(one for other, one in zip(facts, true, strict=True) if about(other, name))
            (right if whole else wrong).append(shown)
    return right, wrong


def about(fact: Fact, name: str) -> bool:
    """Whether a fact is one of the thing of that name: "The old dog is beside the child." is of "dog" and of "child"."""
    return any(f" {found}".endswith(f" {name}") for found in _NAMED.findall(fact.text))


def _thing(fact: Fact) -> tuple[str, str]:
    """Of a fact that a thing is there, the thing with its article and without; of others nothing."""
    match = _THING.fullmatch(fact.text) if fact.kind == "existence" else None
    return (match[1], match[2]) if match else ("", "")


def spread(frames: Tensor, count: int) -> Tensor:
    """`count` of the frames `[F, ...]`, the first and the last among them; all where there are fewer."""
    return frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long().to(frames.device)]
