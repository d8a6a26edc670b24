"""LookBack: a critic looks at the picture again before it writes. Wu et al. 2024 (VISCO), arXiv:2412.02172.

    1  the critic answers the question itself
    2  of each step of the answer it asks what a look at the picture would settle, and answers each of these questions
    3  it writes its critique as it would without, with all of this before it

Only the critique is drawn from the prompt's seed; of everything before it the likeliest is taken.

Where it differs: the instructions are our own.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import NonNegativeInt

from mmalign.data.sources import conditioned
from mmalign.records import Prompt, Samples
from mmalign_lvlm.metrics import told

ANSWER = "{question}\nAnswer briefly."
ASK = """Somebody answers the question "{question}" about this picture, and says: {step}

Which questions about the picture tell whether this is so? Write at most {count}, each on a line of its own. Ask each about one \
thing that can be seen, so that it can be answered without the others."""
LOOK = "{asked}\nAnswer briefly."
LOOKED = """You have looked at the picture again.

Your own answer to the question: {own}
{seen}

{prompt}"""

_QUESTION = re.compile(r"^\W*(?:\d+[.)]\s+)?(\w[^?\n]*\?)", re.MULTILINE)


class LookBack:
    """A critic of an answer's steps looks at the picture again before it writes: it answers the question itself, asks about each
    step what can be seen, and answers that.

    Prompts are those of `visco`, or have `question` and `reasoning`, the list of steps, in their metadata. The critic is the
    model itself; no reward is followed.

    questions: how many it may ask about a step; 0 does not look back, and its critiques are plain samples, bit by bit.
    """

    def __init__(self, questions: NonNegativeInt = 3):
        self.questions = questions
        self._steps = self._unseen = 0

    def __call__(self, policy: Any, reward: None, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One critique a prompt, of a policy that answers in words."""
        looked = [self.looked(policy, one, len(prompts)) for one in prompts] if self.questions else prompts
        return replace(policy.sample(looked, seeds), prompts=prompts)

    def looked(self, policy: Any, prompt: Prompt, at_once: int) -> Prompt:
        """The prompt after what a look at the picture showed. Raises UserError for one that tells no steps."""
        steps, known = told(prompt, "reasoning", "visco"), {"question": told(prompt, "question", "visco")}
        say = partial(_likeliest, policy, at_once)
        (own,) = say([conditioned(prompt, ANSWER, known)])
        lists = say([conditioned(prompt, ASK, {**known, "step": step, "count": self.questions}) for step in steps])
        asked = [questions(text)[: self.questions] for text in lists]
        looks = [(number, one) for number, some in enumerate(asked, start=1) for one in some]
        seen = say([conditioned(prompt, LOOK, {"asked": one}) for _, one in looks])
        notes = [f"About step {number}: {one} {what}" for (number, one), what in zip(looks, seen, strict=True)]
        self._steps, self._unseen = self._steps + len(steps), self._unseen + asked.count([])
        return conditioned(prompt, LOOKED, {"own": own, "seen": "\n".join(notes)})

    def warnings(self) -> list[str]:
        """What went wrong since this was asked last."""
        steps, unseen = self._steps, self._unseen
        self._steps = self._unseen = 0
        what = f"about {unseen} of {steps} steps the critic asked nothing that reads as a question, so it did not look back"
        return [what] if unseen else []


def questions(text: str) -> list[str]:
    """The questions that lines of a text begin with, each once, without the marks of a list."""
    return list(dict.fromkeys(match[1] for match in _QUESTION.finditer(text)))


def _likeliest(policy: Any, at_once: int, prompts: Sequence[Prompt]) -> list[str]:
    """What is likeliest to be said to each prompt."""
    starts = range(0, len(prompts), at_once)
    return [text for i in starts for text in policy.likeliest(prompts[i : i + at_once]).responses]
