"""CHAIR: how many of the objects that captions name are not in the picture. Rohrbach et al. 2018, arXiv:1809.02156.

    CHAIR_i = # mentions of objects that are not there / # mentions of objects      over all captions; each mention counts
    CHAIR_s = # captions with at least one such mention / # captions

An object is there if the annotation of the picture names it or one of its reference captions does. Beside them `recall`, the
share of the objects there that are mentioned; `mentions` and `length` (in words), both a caption.

And as Object HalBench has it (RLHF-V, arXiv:2312.00849), in percent:

    CHAIR_s = # responses with a hallucinated object / # responses that name an object
    CHAIR_i = # hallucinated objects / # objects            each counts once a response
    recall  = # objects there that are named / # objects there

A response of 3 words or fewer names none. Refusals are in no denominator but that of recall, so look at all three.

Where it differs: a vocabulary finds the objects of Object HalBench's responses, not a language model. The synonyms are our
own, and so numbers compare with each other and not with published ones, unless `synonyms` names the benchmark's file.
"""

from collections.abc import Sequence

from mmalign.metrics import ratio
from mmalign.parts import Counts
from mmalign.records import Prompt, Samples
from mmalign_lvlm.metrics import told
from mmalign_lvlm.metrics.vocabulary import COCO, NO_OBJECTS, Vocabulary

SHORT = 3
"""Words of a response that names nothing."""


class Chair:
    """CHAIR_i and CHAIR_s of captions. Prompts tell the `objects` of their picture and its `references`, as `coco-images` do.

    synonyms: a file with a line a class, its words with commas; the classes of COCO with synonyms of our own by default.
    """

    def __init__(self, synonyms: str | None = None):
        self.vocabulary = Vocabulary(COCO, NO_OBJECTS) if synonyms is None else Vocabulary.read(synonyms)

    def counts(self, samples: Samples) -> Sequence[Counts]:
        """Mentions and objects of each caption."""
        return [self._counted(*pair) for pair in zip(samples.prompts, samples.responses, strict=True)]

    def numbers(self, sums: Counts) -> Counts:
        """The first formulas at the head of this file, as shares."""
        return {
            "chair_i": ratio(sums["hallucinated"], sums["mentions"]),
            "chair_s": ratio(sums["wrong"], sums["captions"]),
            "recall": ratio(sums["covered"], sums["objects"]),
            "mentions": ratio(sums["mentions"], sums["captions"]),
            "length": ratio(sums["words"], sums["captions"]),
        }

    def _counted(self, prompt: Prompt, text: str) -> Counts:
        there, named = self._there(prompt), self._named(text)
        hallucinated = sum(name not in there for name in named)
        return {
            "mentions": len(named),
            "hallucinated": hallucinated,
            "wrong": hallucinated > 0,
            "captions": 1,
            "speaking": bool(named),
            "covered": len(there & set(named)),
            "objects": len(there),
            "words": len(text.split()),
        }

    def _named(self, text: str) -> Sequence[str]:
        """The objects that count."""
        return self.vocabulary.mentions(text)

    def _there(self, prompt: Prompt) -> set[str]:
        objects = {self.vocabulary.class_of(name) for name in told(prompt, "objects", "coco-images")}
        return objects.union(*map(self.vocabulary.mentions, prompt.metadata.get("references", ())))


class ObjectHalBench(Chair):
    """CHAIR_s, CHAIR_i and recall as Object HalBench has them, in percent. Prompts are those of `object-halbench`.

    synonyms: as for `chair`.
    """

    def numbers(self, sums: Counts) -> Counts:
        """The other formulas at the head of this file."""
        return {
            "chair_s": 100 * ratio(sums["wrong"], sums["speaking"]),
            "chair_i": 100 * ratio(sums["hallucinated"], sums["mentions"]),
            "recall": 100 * ratio(sums["covered"], sums["objects"]),
            "length": ratio(sums["words"], sums["captions"]),
        }

    def _named(self, text: str) -> Sequence[str]:
        return sorted(set(super()._named(text))) if len(text.split()) > SHORT else ()
