"""Models that a run trained to tell classes of segments, as rewards of whole answers and of their segments.

Answers are cut into sub-sentences (`mmalign_lvlm.segments`), which each head k reads where they end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.records import Samples, Scores
from mmalign.rewards.trained import load
from mmalign_lvlm.segments import split

_TYPED = {"faithful": 1.0, "hallucinated": -1.0}


@dataclass(frozen=True)
class Read:
    """An answer's segments that the model sees the end of: their ends, counted in characters, and the log-probabilities of
    their classes, `[S, K, C]`.
    """

    ends: Sequence[int]
    log_probs: Tensor


class SegmentModel:
    """A trained model that tells classes of segments. path: the `model` folder of its run, for example runs/existence/model."""

    def __init__(self, path: str):
        self.path = path
        self.policy: Any = load(path)
        self.names: Sequence[str] = self.policy.heads.names
        self.classes: Sequence[str] = self.policy.heads.classes
        if not self.classes:
            raise UserError(f"{path}: its heads give whole answers a value: take the reward `reward-model`")

    def read(self, samples: Samples) -> list[Read]:
        """What it makes of each answer, without gradient."""
        texts = samples.responses
        ends = [[end for _, end in split(text)] for text in texts]
        if not any(ends):
            nothing = torch.zeros(0, len(self.names), len(self.classes))
            return [Read((), nothing) for _ in texts]
        with self.policy.judging():
            encoded = self.policy.encode(samples.prompts, texts, ends)
            logits = self.policy.logits(encoded)
        seen = (encoded.places[:, 1:] >= 0).sum(dim=1).tolist()
        rows = logits.float().log_softmax(-1).cpu().split(seen)
        return [Read(own[:count], row) for own, count, row in zip(ends, seen, rows, strict=True)]

    def check(self, option: str, given: Sequence[str], known: Sequence[str]) -> None:
        """Raise UserError for a name of an option that the model does not know."""
        if unknown := [f"'{name}'{nearest(name, known)}" for name in given if name not in known]:
            raise UserError(f"{option}: {self.path} has {', '.join(known)}, not {', '.join(unknown)}")


class _OfSegments:
    """What both rewards share: the model."""

    def __init__(self, path: str):
        self.model = SegmentModel(path)

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.model.policy.to(device)
        return self


class SegmentReward(_OfSegments):
    """A value for the class of every segment, as in Fine-Grained RLHF (arXiv:2306.01693) and FGAIF (arXiv:2404.05046).

        r = Σ_j r_j,    r_j = Σ_k w_k v(argmax_c z_jkc),    or with `expected` r_j = Σ_k w_k Σ_c p(c | z_jk) v(c)

    z_jk: what head k says of segment j. `dimensions` holds what each head gave. A segment without facts of any kind earns
    nothing, and so does an answer without words.

    path: the `model` folder of the run that trained it.
    values: v by class; 0 where none is given. For the classes of FGAIF: 1 for faithful, -1 for hallucinated.
    weights: w by head; 1 where none is given.
    dense: whether each segment earns its r_j where it ends; if not, all of r belongs to the whole answer.
    expected: the value that is to be expected, not that of the likeliest class, so that a reward model which is rarely sure
        still tells the better segment from the worse. The papers take the likeliest.
    """

    def __init__(
        self,
        path: str,
        values: Mapping[str, float] = _TYPED,
        weights: Mapping[str, float] = {},
        dense: bool = True,
        expected: bool = False,
    ):
        super().__init__(path)
        self.model.check("values", list(values), self.model.classes)
        self.model.check("weights", list(weights), self.model.names)
        self.values = torch.tensor([values.get(name, 0.0) for name in self.model.classes])
        self.weights = torch.tensor([weights.get(name, 1.0) for name in self.model.names])
        self.dense, self.expected = dense, expected

    def __call__(self, samples: Samples) -> Scores:
        """`[B]`, and what each segment earned."""
        read = self.model.read(samples)
        earned = [self.weights * self._value(one.log_probs) for one in read]
        by_head = torch.stack([rows.sum(0) for rows in earned]) if earned else torch.zeros(0, len(self.weights))
        spans = [list(zip(one.ends, rows.sum(1).tolist(), strict=True)) for one, rows in zip(read, earned, strict=True)]
        dimensions = dict(zip(self.model.names, by_head.unbind(1), strict=True))
        return Scores(by_head.sum(1), dimensions, spans=spans if self.dense else None)

    def _value(self, log_probs: Tensor) -> Tensor:
        """`[S, K]` of the classes' log-probabilities `[S, K, C]`."""
        return log_probs.exp() @ self.values if self.expected else self.values[log_probs.argmax(-1)]


class SegmentLikelihood(_OfSegments):
    """How likely no segment is of a bad class, to choose the best of n answers by. M-HalDetect, arXiv:2308.06394.

        r = 1/S Σ_j log P(class of segment j is not bad)

    With several heads the logarithms are summed. Answers without words go unscored: they would be the best of all.

    path: the `model` folder of the run that trained it.
    bad: the bad classes.
    reduce: "mean" as above, or "sum", the log-probability that nothing is bad, which prefers short answers.
    """

    def __init__(self, path: str, bad: Sequence[str] = ("inaccurate",), reduce: Literal["mean", "sum"] = "mean"):
        super().__init__(path)
        self.model.check("bad", bad, self.model.classes)
        self.other = [c for c, name in enumerate(self.model.classes) if name not in bad]
        if not self.other:
            raise UserError("bad: all classes are bad, so no answer is better than another")
        self.reduce = reduce

    def __call__(self, samples: Samples) -> Tensor:
        """`[B]`, 0 or less; NaN for an answer without words."""
        return torch.tensor([self._score(one.log_probs) for one in self.model.read(samples)])

    def _score(self, log_probs: Tensor) -> float:
        each = log_probs[..., self.other].logsumexp(-1).sum(-1)  # [S]
        return float((each.mean() if self.reduce == "mean" else each.sum()) if len(each) else torch.nan)
