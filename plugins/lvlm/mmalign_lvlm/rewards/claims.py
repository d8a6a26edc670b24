"""Divide and conquer: how many of an answer's claims a model rejects. Yu et al. 2024 (RLAIF-V), arXiv:2405.17220.

    r = -(# claims that are rejected)

An answer is cut into pieces, what each piece claims is listed as facts, and a judge is asked of each whether it is true of the
picture (`mmalign_lvlm.judges.vlm`). The longer answer has more to be wrong about: `per_claim` divides by the number of claims.

Where it differs: an answer without claims, which would beat all others, has no score; nor has one with a claim of which the
judge says nothing that can be read. A claim that is moot, such as the colour of a thing that is not there, is not counted.
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch

from mmalign.parts import FactJudge
from mmalign.records import Answer, Samples, Scores, Verdict
from mmalign_lvlm.judges.vlm import VisionLanguageJudge
from mmalign_lvlm.segments import split


class RejectedClaims:
    """Minus the number of an answer's claims that a vision-language model rejects; 0 where it rejects none.

    path: the model that is asked whether a claim is true. facts: the model that lists the claims; the same by default.
    per_claim: whether it is the share of claims.
    dtype: of the weights.
    """

    def __init__(
        self,
        path: str,
        facts: str | None = None,
        per_claim: bool = False,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ):
        self.judge: FactJudge = VisionLanguageJudge(path, dtype=dtype)
        self.lister: FactJudge = self.judge if facts is None else VisionLanguageJudge(facts, dtype=dtype)
        self.per_claim = per_claim

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        for one in (self.judge, self.lister):
            one.to(device)  # type: ignore[attr-defined]
        return self

    def __call__(self, samples: Samples) -> Scores:
        """`[B]`, at most 0; NaN where there is no score. dimensions: `claims` and `rejected`, how many."""
        told = judged(samples, self.lister, self.judge)
        claims = torch.tensor([float(len(one or ())) for one in told])
        rejected = torch.tensor([float([v.said for v in one or ()].count("no")) for one in told])
        values = -rejected / claims if self.per_claim else -rejected
        return Scores(torch.where(claims > 0, values, torch.nan), {"claims": claims, "rejected": rejected})


def judged(samples: Samples, lister: FactJudge, judge: FactJudge) -> list[list[Verdict] | None]:
    """The verdicts yes or no on each answer's claims; None where some claim has none."""
    pairs = zip(samples.prompts, samples.responses, strict=True)
    answers = [Answer(prompt, text, tuple(split(text))) for prompt, text in pairs]
    found = lister.facts(answers)
    asked = zip(answers, found, strict=True)
    verdicts = iter(
        judge.verify([(one.prompt, fact) for one, pieces in asked for facts in pieces for fact in facts or ()])
    )
    return [
        _counted([None if facts is None else [next(verdicts) for _ in facts] for facts in pieces]) for pieces in found
    ]


def _counted(pieces: Sequence[Sequence[Verdict] | None]) -> list[Verdict] | None:
    if any(piece is None or any(verdict.said == "none" for verdict in piece) for piece in pieces):
        return None
    return [verdict for piece in pieces for verdict in piece or () if verdict.said in ("yes", "no")]
