"""Rows made of preference pairs, with prompts that say what the answer is to be like.

Conditioned prompts make a model that does as it is told: trained on good answers where it was asked for good ones and on bad
answers where it was asked for bad ones, it is then asked for good ones. Ratings and critiques that stand in a row of their
own become part of its prompt by the `template` of the other sources.
"""

from mmalign.data.sources import PLAIN, Pairs, conditioned
from mmalign.data.texts import TextPairs
from mmalign.errors import UserError
from mmalign.parts import Row, Source

GOAL = "{prompt}\nThe answer has a score of {goal}."


class TakenApart:
    """Each pair as two rows: its chosen sample, which is good, and its rejected one, which is bad.

    good, bad: what the model is asked for each; `{prompt}` is the prompt.
    """

    def __init__(self, pairs: Source, good: str = PLAIN, bad: str = PLAIN):
        self._pairs = pairs
        self._templates = {True: good, False: bad}

    def __len__(self) -> int:
        return 2 * len(self._pairs)

    def __getitem__(self, index: int) -> Row:
        pair, good = self._pairs[index // 2], index % 2 == 0
        prompt = conditioned(pair["prompt"], self._templates[good], {})
        return {"prompt": prompt, "sample": pair["chosen" if good else "rejected"], "label": good}


class Goals:
    """Each pair as two: asked for the chosen sample's score, that one is better; asked for the other's, the other one is.

    Reward-augmented preferences (Zhang et al. 2024, arXiv:2410.08067); afterwards the model is asked for the best score. Rows
    need `scores`, of the chosen and of the rejected sample; pairs whose scores are equal are left out.

    template: what the model is asked; `{prompt}` is the prompt, `{goal}` the score.
    """

    def __init__(self, pairs: Source, template: str = GOAL):
        self._pairs = pairs
        self._template = template
        scores = ((i, _scores(pairs[i], i)) for i in range(len(pairs)))
        self._rows = [(i, both) for i, both in scores if both[0] != both[1]]
        if not self._rows:
            raise UserError("both sides of every pair have the same score, so that no goal tells them apart")

    def __len__(self) -> int:
        return 2 * len(self._rows)

    def __getitem__(self, index: int) -> Row:
        (row, scores), turned = self._rows[index // 2], index % 2 == 1
        pair, sides = self._pairs[row], ("rejected", "chosen") if turned else ("chosen", "rejected")
        prompt = conditioned(pair["prompt"], self._template, {"goal": f"{scores[turned]:g}"})
        return {"prompt": prompt, "chosen": pair[sides[0]], "rejected": pair[sides[1]]}


def _scores(pair: Row, index: int) -> tuple[float, float]:
    """Those of the chosen and of the rejected sample. Raises UserError where the row has none."""
    if (scores := pair.get("scores")) is None:
        raise UserError(f"pair {index + 1} has no `scores`: a list of the chosen sample's and the rejected one's")
    return float(scores[0]), float(scores[1])


def unpaired(
    path: str, preset: str = "mmalign", split: str = "train", good: str = PLAIN, bad: str = PLAIN
) -> TakenApart:
    """Preference pairs taken apart, for objectives without pairs: each chosen sample is good, each rejected one is bad.

    path, preset, split: as for pairs. good, bad: what the model is asked for each; `{prompt}` is the prompt.
    """
    return TakenApart(Pairs(path, preset, split), good, bad)


def text_unpaired(path: str, split: str = "train", good: str = PLAIN, bad: str = PLAIN) -> TakenApart:
    """Pairs of answers taken apart, for objectives without pairs: each chosen one is good, each rejected one is bad.

    path, split: as for text-pairs. good, bad: what the model is asked for each; `{prompt}` is the prompt.
    """
    return TakenApart(TextPairs(path, split=split), good, bad)


def goal_pairs(path: str, preset: str = "mmalign", split: str = "train", template: str = GOAL) -> Goals:
    """Scored pairs under a goal: asked for the better score the better sample wins, asked for the worse one the worse.

    path, preset, split: as for pairs. template: what the model is asked; `{prompt}` is the prompt, `{goal}` the score.
    """
    return Goals(Pairs(path, preset, split), template)


def text_goal_pairs(path: str, split: str = "train", template: str = GOAL) -> Goals:
    """Scored pairs of answers under a goal: asked for the better score the better wins, asked for the worse one the worse.

    path, split: as for text-pairs. template: what the model is asked; `{prompt}` is the prompt, `{goal}` the score.
    """
    return Goals(TextPairs(path, split=split), template)
