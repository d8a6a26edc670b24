"""POPE: is there a ... in the image? Li et al. 2023, arXiv:2305.10355. "Yes" is the positive class.

    precision = TP / (TP + FP)      recall = TP / (TP + FN)      f1 = 2 precision recall / (precision + recall)
    accuracy = (TP + TN) / N        yes_ratio = # answered yes / N

An answer means no if "No", "no" or "not" is a word before its first full stop, and yes otherwise. About 2 to 9 % of the official
labels are doubtful, so differences below a point mean little.

Questions are about objects that are there and, as many, about some that are not:

    random          any of those
    popular         those that are in most pictures
    adversarial     those that are most often in a picture together with what is there
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from typing import Literal, NamedTuple

from mmalign.metrics import f1, ratio
from mmalign.parts import Counts
from mmalign.records import Samples
from mmalign_lvlm.metrics import told

Split = Literal["random", "popular", "adversarial"]
NO = {"No", "not", "no"}


class Pope:
    """Accuracy, precision, recall, F1 and the share of yes, as shares; where prompts tell their `split`, of each split, too.

    Prompts tell their `label`, "yes" or "no", as those of `pope` do.
    """

    def counts(self, samples: Samples) -> Sequence[Counts]:
        """One of TP, FP, TN, FN for each answer, under its split."""
        labels = [told(prompt, "label", "pope") for prompt in samples.prompts]
        splits = [prompt.metadata.get("split", "") for prompt in samples.prompts]
        return [
            {f"{split} {'T' if said == label else 'F'}{'P' if said == 'yes' else 'N'}": 1}
            for split, label, said in zip(splits, labels, map(meant, samples.responses), strict=True)
        ]

    def numbers(self, sums: Counts) -> Counts:
        """The formulas at the head of this file; of all questions, and as `split/number` of each split."""
        splits = sorted({name.rpartition(" ")[0] for name in sums})
        everything = {
            kind: sum(sums.get(f"{split} {kind}", 0) for split in splits) for kind in ("TP", "FP", "TN", "FN")
        }
        by_split = {
            f"{split}/{name}": value
            for split in filter(None, splits)
            for name, value in scored(*(sums.get(f"{split} {kind}", 0) for kind in everything)).items()
        }
        return {**scored(*everything.values()), **by_split}


def scored(tp: float, fp: float, tn: float, fn: float) -> Counts:
    """The formulas at the head of this file."""
    precision, recall, n = ratio(tp, tp + fp), ratio(tp, tp + fn), tp + fp + tn + fn
    return {
        "accuracy": ratio(tp + tn, n),
        "precision": precision,
        "recall": recall,
        "f1": f1(precision, recall),
        "yes_ratio": ratio(tp + fp, n),
    }


def meant(answer: str) -> Literal["yes", "no"]:
    """What an answer means. A rambling "Yes, ... is not ..." means no: that is how POPE reads it."""
    first = answer.split(".")[0].replace(",", "")
    return "no" if NO & set(first.split()) else "yes"


class Question(NamedTuple):
    """Whether an object is in a picture."""

    picture: str
    object: str
    label: Literal["yes", "no"]


def questions(
    pictures: Mapping[str, AbstractSet[str]], split: Split, each: int = 3, seed: int = 0
) -> Iterator[Question]:
    """Up to `each` questions about what is there and as many about what is not, for each of `pictures` and their objects."""
    rng = random.Random(seed)
    objects = sorted(set().union(*pictures.values()))
    frequent = Counter(name for there in pictures.values() for name in there)
    together = Counter(pair for there in pictures.values() for pair in combinations(sorted(there), 2))
    for picture, there in pictures.items():
        absent = [name for name in objects if name not in there]
        rng.shuffle(absent)
        if split == "popular":
            absent.sort(key=lambda name: -frequent[name])
        elif split == "adversarial":
            absent.sort(key=lambda name, there=there: -sum(together[min(name, o), max(name, o)] for o in there))
        size = min(each, len(there), len(absent))
        yield from (Question(picture, name, "yes") for name in rng.sample(sorted(there), size))
        yield from (Question(picture, name, "no") for name in absent[:size])
