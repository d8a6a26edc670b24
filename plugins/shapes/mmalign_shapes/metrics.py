"""What captions of the shapes world are worth, over all of them together.

    hallucination   statements that are false / statements; `hallucination/<type>` of those about existence, attribute, relation
    recall          things named with colour and shape / things in the pictures
    length          words a caption
    statements      statements a caption

The share is one over all statements, as CHAIR_i is over all mentions, and no mean of the captions' shares: a caption without a
statement has none, and one false statement of one is no more than one of five.
"""

from collections.abc import Sequence

from mmalign.errors import UserError
from mmalign.metrics import ratio
from mmalign.parts import Counts
from mmalign.records import Prompt, Samples
from mmalign_shapes.oracle import judged
from mmalign_shapes.scenes import Scene
from mmalign_shapes.statements import TYPES


class Captions:
    """Hallucination by type, recall of the true things and length of captions, as the oracle sees them.

    A statement counts once however often a caption makes it; one about a thing that is not there does not count, for the
    thing does already. Prompts carry their scene, as those of `shapes-images` do.
    """

    def counts(self, samples: Samples) -> Sequence[Counts]:
        """What was counted of each caption: see `counted`. Raises UserError for a prompt without scene."""
        return [
            counted(text, scene_of(prompt)) for prompt, text in zip(samples.prompts, samples.responses, strict=True)
        ]

    def numbers(self, sums: Counts) -> Counts:
        """The numbers at the head of this file."""
        return {
            "hallucination": ratio(sums["false"], sums["statements"]),
            **{f"hallucination/{type}": ratio(sums[f"false {type}"], sums[f"statements {type}"]) for type in TYPES},
            "recall": ratio(sums["named"], sums["things"]),
            "length": ratio(sums["words"], sums["captions"]),
            "statements": ratio(sums["statements"], sums["captions"]),
        }


def counted(text: str, scene: Scene) -> dict[str, float]:
    """Of one caption: its `statements`, the `false` ones, both also by type; `named` of the scene's `things`; `words`."""
    found = [
        (one.statement.claim, one.true) for one in judged(text, scene) if one.statement.claim and one.true is not None
    ]
    named = {claim.things for claim, true in found if claim.type == "attribute" and true}
    by_type = {type: [true for claim, true in found if claim.type == type] for type in TYPES}
    return {
        "statements": len(found),
        "false": sum(not true for _, true in found),
        **{f"statements {type}": len(verdicts) for type, verdicts in by_type.items()},
        **{f"false {type}": verdicts.count(False) for type, verdicts in by_type.items()},
        "named": len(named),
        "things": len(scene.things),
        "words": len(text.split()),
        "captions": 1,
    }


def scene_of(prompt: Prompt) -> Scene:
    """What the picture of a prompt shows. Raises UserError where nobody told."""
    scene = prompt.metadata.get("scene")
    if not isinstance(scene, Scene):
        raise UserError(
            f"the oracle needs to know what the picture of prompt '{prompt.text[:60]}' shows, but there is no scene "
            "with it: use prompts of shapes-images"
        )
    return scene
