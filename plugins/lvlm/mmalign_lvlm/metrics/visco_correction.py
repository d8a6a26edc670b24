"""VISCO's correction: what becomes of an answer once its critique is known. Wu et al. 2024, arXiv:2412.02172.

    corrected = mean(right after | wrong before)        spoilt = mean(wrong after | right before)
    correction = corrected - spoilt

Each is of all answers; without any that was wrong, or any that was right, there is no correction score. Where the judge does not
say whether an answer is right, it is left out and counted as such.

Where it differs: a judge says whether the new answer is the right one, for all of the benchmark's 18 sources alike.
"""

import re
from collections.abc import Sequence

from mmalign.metrics import ratio
from mmalign.parts import Asks, Counts
from mmalign.records import Prompt, Samples
from mmalign_lvlm.judges import yes_or_no
from mmalign_lvlm.metrics import told

SAME = """Somebody answers a question. Is the answer right?

Question: {question}
The right answer: {label}
The answer: {answer}

Answer with one word: yes or no."""


class ViscoCorrection:
    """The share of wrong answers that are put right, that of right ones that are spoilt, and the former less the latter.

    Prompts are those of `visco-corrections`; the judge answers in words.
    """

    def counts(self, samples: Samples, judge: Asks) -> Sequence[Counts | None]:
        """Of each answer on which side it was, and whether it changed it."""
        pairs = list(zip(samples.prompts, samples.responses, strict=True))
        said = judge.ask([Prompt(question(prompt, answer)) for prompt, answer in pairs])
        return [_counted(prompt, yes_or_no(one or "")) for (prompt, _), one in zip(pairs, said, strict=True)]

    def numbers(self, sums: Counts) -> Counts:
        """The formulas at the head of this file; no correction where it has none."""
        wrong, right = sums["wrong before"], sums["right before"]
        score = correction(sums["corrected"], wrong, sums["spoilt"], right)
        shares = {"corrected": ratio(sums["corrected"], wrong), "spoilt": ratio(sums["spoilt"], right)}
        return shares if score is None else {"correction": score, **shares}


def correction(corrected: float, wrong: float, spoilt: float, right: float) -> float | None:
    """The score of how many of those that were wrong are corrected, and of those that were right spoilt; None without either."""
    return corrected / wrong - spoilt / right if wrong and right else None


def question(prompt: Prompt, answer: str) -> str:
    """What the judge is asked."""
    known = {name: str(told(prompt, name, "visco-corrections")) for name in ("question", "label")}
    parts = {**known, "answer": answer}
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], SAME)


def _counted(prompt: Prompt, right: bool | None) -> Counts | None:
    if right is None:
        return None
    if told(prompt, "answer_correctness", "visco-corrections"):
        return {"right before": 1, "spoilt": not right}
    return {"wrong before": 1, "corrected": right}
