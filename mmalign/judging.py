"""What a judge says of answers, as labels of their segments: cut, find facts, verify each, label every kind.

A segment's label of a kind of fact, as in FGAIF (Jing & Du 2024, arXiv:2404.05046):

    absent         it claims nothing of this kind
    faithful       it claims something, all of it true
    hallucinated   it claims something that is not

Where it differs: a fact without verdict is neither true nor false, so unless another one is false the segment has no label of
that kind; moot facts count as none.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mmalign.parts import FactJudge
from mmalign.records import Answer, Fact, FactKind, Prompt, Verdict

KINDS: tuple[FactKind, ...] = get_args(FactKind)
CLASSES = ("absent", "faithful", "hallucinated")
Split = Callable[[str], Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Finding:
    """What was found of one segment, `text[start:end]`. facts: with their verdicts; None where the judge could not tell."""

    start: int
    end: int
    facts: Sequence[tuple[Fact, Verdict]] | None

    @property
    def labels(self) -> dict[str, str | None]:
        """The class in each kind of fact, or None without one."""
        if self.facts is None:
            return dict.fromkeys(KINDS)
        return {kind: label([v.said for fact, v in self.facts if fact.kind == kind]) for kind in KINDS}

    def plain(self) -> list[Any]:
        """As JSON holds it: `[start, end, [{kind, text, said, p_yes}, ...]]`."""
        if self.facts is None:
            return [self.start, self.end, None]
        return [self.start, self.end, [{**vars(fact), **vars(verdict)} for fact, verdict in self.facts]]


def label(said: Sequence[str]) -> str | None:
    """The class of a segment whose facts of one kind got these verdicts, or None without one."""
    count = Counter(said)
    if count["no"]:
        return "hallucinated"
    if count["none"]:
        return None
    return "faithful" if count["yes"] else "absent"


def findings(
    prompts: Sequence[Prompt], texts: Sequence[str], split: Split, finder: FactJudge, verifier: FactJudge
) -> list[list[Finding]]:
    """By answer what was found of its segments; none of an answer that says nothing."""
    answers = [Answer(prompt, text, tuple(split(text))) for prompt, text in zip(prompts, texts, strict=True)]
    found = list(zip(answers, finder.facts(answers), strict=True))
    questions = [(answer.prompt, fact) for answer, pieces in found for facts in pieces for fact in facts or ()]
    told = verifier.verify(questions)
    if len(told) != len(questions):
        raise ValueError(f"a judge was asked {len(questions)} questions and gave {len(told)} verdicts")
    verdicts = iter(told)
    return [list(_found(answer, pieces, verdicts)) for answer, pieces in found]


def _found(answer: Answer, pieces: Sequence[Sequence[Fact] | None], verdicts: Iterator[Verdict]) -> Iterator[Finding]:
    """The findings of one answer, whose verdicts come next."""
    for (start, end), facts in zip(answer.spans, pieces, strict=True):
        yield Finding(start, end, None if facts is None else [(fact, next(verdicts)) for fact in facts])


def labelled(found: Sequence[Finding]) -> list[list[Any]]:
    """The segments that have a label, as feedback holds them: `[start, end, {kind: class or null}]`."""
    return [[one.start, one.end, one.labels] for one in found if any(one.labels.values())]


def unanswered(row: Mapping[str, Any]) -> int:
    """How much the judge did not tell of an answer, a row of a collection: segments unread, and facts without a verdict."""
    return sum(1 if facts is None else sum(f["said"] == "none" for f in facts) for _, _, facts in row["facts"])


def tally(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often each verdict and each label was given, by kind, in rows of a collection.

    unread: segments of which the judge could not tell what they claim. unlabelled: answers without any label.
    """
    pieces = [piece for row in rows for piece in row["facts"]]
    facts = [fact for _, _, facts in pieces for fact in facts or ()]
    labels = [segment[2] for row in rows for segment in row["segments"]]
    return {
        "answers": len(rows),
        "empty": sum(not row["facts"] for row in rows),
        "unlabelled": sum(not row["segments"] for row in rows),
        "segments": len(pieces),
        "unread": sum(facts is None for *_, facts in pieces),
        "verdicts": {kind: dict(Counter(f["said"] for f in facts if f["kind"] == kind)) for kind in KINDS},
        "labels": {kind: dict(Counter(one[kind] or "none" for one in labels)) for kind in KINDS},
    }
