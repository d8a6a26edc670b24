"""VISCO's prompts, read from its official `test.jsonl`, which is not downloaded. Wu et al. 2024, arXiv:2412.02172.

A row has a question with its `image` and its `label`, the right answer; the `response` of some model, which is its `reasoning` in
steps and its `answer`; and, from three annotators, what of it is correct and what is wrong with the rest. The model is asked

visco                 to criticise the response (the metric `visco`)
visco-corrections     to answer again, with the critique of an annotator before it (the metric `visco-correction`)
"""

from collections.abc import Iterator, Sequence

from mmalign.records import Prompt
from mmalign_lvlm.benchmarks import Line, Prompts, filled, picture, read

CRITICISE = """{question}

Somebody answered "{answer}", for these reasons:
{steps}

Look at the picture and say which of this is correct. Write one JSON object and nothing else:
{{"step_1": {{"correctness": "correct" or "incorrect", "explanation": "what is wrong, or empty"}}, ..., \
"answer_correctness": "correct" or "incorrect"}}"""
CORRECT = """{question}

Somebody answered "{answer}", for these reasons:
{steps}

The answer is {verdict}, says whoever looked at the picture again and wrote what is below each reason. Look at it yourself and \
answer the question. Write the answer alone."""


class ViscoPrompts(Prompts):
    """VISCO's questions with an answer and its steps, for the model to criticise.

    path: `test.jsonl`. template: what the model is asked, with `{question}`, `{answer}` and `{steps}`.
    """

    def __init__(self, path: str, template: str = CRITICISE):
        super().__init__(read(path, self._read, template))

    @staticmethod
    def _read(row: Line, template: str) -> Prompt:
        steps = row["response"]["reasoning"]
        numbered = "\n".join(f"{i}. {step}" for i, step in enumerate(steps, start=1))
        known = ("question", "answer_correctness", "reasoning_correctness", "reasoning_critic")
        metadata = {"reasoning": steps, **{key: row[key] for key in known}}
        parts = {"question": row["question"], "answer": row["response"]["answer"], "steps": numbered}
        return Prompt(filled(template, parts), metadata, (picture(row),))


class ViscoCorrections(Prompts):
    """VISCO's questions with an answer, its steps and what an annotator says of each, for the model to answer again.

    path: `test.jsonl`. template: what the model is asked, with `{question}`, `{answer}`, `{steps}` and `{verdict}`, "correct" or
    "incorrect".

    Where it differs: of the three annotators it is always the first; the instructions are our own.
    """

    def __init__(self, path: str, template: str = CORRECT):
        super().__init__(read(path, self._read, template))

    @staticmethod
    def _read(row: Line, template: str) -> Prompt:
        parts = {
            "question": row["question"],
            "answer": row["response"]["answer"],
            "steps": "\n".join(_criticised(row["response"]["reasoning"], row)),
            "verdict": _said(row["answer_correctness"]),
        }
        metadata = {key: row[key] for key in ("question", "label", "answer_correctness")}
        return Prompt(filled(template, parts), metadata, (picture(row),))


def _criticised(steps: Sequence[str], row: Line) -> Iterator[str]:
    """Each step, and below it what the first annotator says."""
    said = zip(steps, row["reasoning_correctness"], row["reasoning_critic"], strict=True)
    for i, (step, correct, references) in enumerate(said, start=1):
        yield f"{i}. {step}\n   This is {_said(correct)}.{'' if correct else ' ' + references[0]}"


def _said(correct: bool) -> str:
    return "correct" if correct else "incorrect"
