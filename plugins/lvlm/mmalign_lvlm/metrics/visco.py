"""VISCO: criticism of a chain of thought, step by step. Wu et al. 2024, arXiv:2412.02172. "Incorrect" is the positive class.

    answer_f1, thought_f1      F1 of which answers, and which steps, are called incorrect
    explanation_f1             F1 with TP = Σ over steps rightly called incorrect of the share of references that the
                               explanation matches, precision = TP / # called incorrect, recall = TP / # incorrect
    viscore = (answer_f1 · thought_f1 · explanation_f1)^(1/3)

A judge says whether an explanation matches a reference. What the critique does not say, or not so that it can be read, is
called neither correct nor incorrect. Where the judge does not answer, that reference is left out; if it answers for no
reference of a step that needs one, the critique is left out and counted as such.

Where it differs: the judge's instructions, and those that ask for the critique (`visco` prompts), are our own.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmalign.builtin.statistics import mean
from mmalign.metrics import f1, ratio
from mmalign.parts import Asks, Counts
from mmalign.records import Prompt, Samples
from mmalign_lvlm.judges import yes_or_no
from mmalign_lvlm.metrics import told

MATCH = """Two people say what is wrong with a step of an answer to a question. Do both name the same mistake?

Question: {question}
The step: {step}
The mistake: {reference}
To be checked: {explanation}

Answer with one word: yes or no."""

_MEANS = {"correct": True, "yes": True, "true": True, "incorrect": False, "no": False, "false": False}


class Step(NamedTuple):
    """What a critique says of a step. correct: None where it does not tell."""

    correct: bool | None
    explanation: str


class Critique(NamedTuple):
    """What a critique says of the answer and of each step."""

    correct: bool | None
    steps: Sequence[Step]


class Visco:
    """The three F1 and VISCore, as shares, by a judge that answers in words. Prompts are those of `visco`."""

    def counts(self, samples: Samples, judge: Asks) -> Sequence[Counts | None]:
        """True positives, what is incorrect and what was called so, of each critique."""
        pairs = zip(samples.prompts, samples.responses, strict=True)
        read = [(prompt, critique(text, len(_steps(prompt)))) for prompt, text in pairs]
        asked = [list(questions(prompt, said)) for prompt, said in read]
        answers = iter(judge.ask([Prompt(text) for rows in asked for _, text in rows]))
        matches = [[(step, yes_or_no(next(answers) or "")) for step, _ in rows] for rows in asked]
        return [_counted(prompt, said, found) for (prompt, said), found in zip(read, matches, strict=True)]

    def numbers(self, sums: Counts) -> Counts:
        """The formulas at the head of this file."""
        answers = _f1(sums["answers found"], sums["answers called"], sums["answers wrong"])
        thoughts = _f1(sums["steps found"], sums["steps called"], sums["steps wrong"])
        explanations = _f1(sums["explained"], sums["steps called"], sums["steps wrong"])
        return {
            "viscore": (answers * thoughts * explanations) ** (1 / 3),
            "answer_f1": answers,
            "thought_f1": thoughts,
            "explanation_f1": explanations,
        }


def critique(text: str, steps: int) -> Critique:
    """Read `{"answer_correctness": ..., "step_1": {"correctness": ..., "explanation": ...}, ...}` out of a text."""
    said = _object(text)
    told_of = [said.get(f"step_{i + 1}") for i in range(steps)]
    rows = [step if isinstance(step, Mapping) else {} for step in told_of]
    read = [Step(_meaning(row.get("correctness")), str(row.get("explanation") or "")) for row in rows]
    answer = said.get("answer_correctness")
    return Critique(_meaning(answer.get("correctness") if isinstance(answer, Mapping) else answer), read)


def questions(prompt: Prompt, said: Critique) -> Iterator[tuple[int, str]]:
    """For each step rightly called incorrect: its number and what the judge is asked, once a reference."""
    right, references = told(prompt, "reasoning_correctness", "visco"), told(prompt, "reasoning_critic", "visco")
    for i, (step, correct) in enumerate(zip(said.steps, right, strict=True)):
        for reference in references[i] if not correct and step.correct is False else ():
            parts = {
                "question": prompt.metadata["question"],
                "step": _steps(prompt)[i],
                "reference": reference,
                "explanation": step.explanation,
            }
            yield i, re.sub(r"\{(\w+)\}", lambda match, parts=parts: parts[match[1]], MATCH)


def _counted(prompt: Prompt, said: Critique, matches: Sequence[tuple[int, bool | None]]) -> Counts | None:
    """matches: by reference its step and whether the explanation matches it."""
    by_step = {i: [float(match) for step, match in matches if step == i and match is not None] for i, _ in matches}
    if not all(by_step.values()):
        return None
    wrong = [not correct for correct in told(prompt, "reasoning_correctness", "visco")]
    called = [step.correct is False for step in said.steps]
    answer_wrong, answer_called = not told(prompt, "answer_correctness", "visco"), said.correct is False
    return {
        "answers found": answer_wrong and answer_called,
        "answers called": answer_called,
        "answers wrong": answer_wrong,
        "steps found": sum(w and c for w, c in zip(wrong, called, strict=True)),
        "steps called": sum(called),
        "steps wrong": sum(wrong),
        "explained": sum(map(mean, by_step.values())),
    }


def _f1(found: float, called: float, wrong: float) -> float:
    return f1(ratio(found, called), ratio(found, wrong))


def _steps(prompt: Prompt) -> Sequence[str]:
    steps: Sequence[str] = told(prompt, "reasoning", "visco")
    return steps


def _meaning(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _MEANS.get(str(value).strip().lower())


def _object(text: str) -> Mapping[str, Any]:
    """The JSON object in a text, its keys in small letters; empty where there is none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return {}
    return {str(key).strip().lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
