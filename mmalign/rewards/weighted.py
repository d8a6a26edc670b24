"""The run's reward: a weighted sum of named, checked rewards.

    r(x) = Σ_k w_k r_k(x)

where r_k may be gated first: it is 0 for a sample with which another reward, a gate, is not satisfied, r_g(x) < threshold
of g; and normalised then: (r_k - mean) / (deviation + 1e-4) within the samples of a prompt or of the buffer, or of all until
now. With `normalize: group` everywhere and `grpo` with `spread: batch` this is GDPO (Liu et al. 2026, arXiv:2601.05242).

A prompt may weigh the rewards itself, by name in its metadata: `{"weights": {"helpful": 0.9, "brief": -0.4}}` multiplies
the w_k of its samples (directional preferences; `mmalign.data.directions`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmalign.errors import UserError
from mmalign.maths.advantages import grouped
from mmalign.records import WEIGHTS, Samples, Scores, Spans

Normalize = Literal["none", "group", "batch", "running"]


@dataclass
class Moments:
    """Of all scores seen until now: how many they are, their mean, and the sum of their squared differences from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, scores: Tensor) -> None:
        """See more; what is not finite does not count. Chan et al. 1979, as exact as if all were seen at once."""
        known = scores.detach()[scores.isfinite()].double()
        if len(known) == 0:
            return
        total, gap = self.count + len(known), float(known.mean()) - self.mean
        self.squares += float((known - known.mean()).square().sum()) + gap**2 * self.count * len(known) / total
        self.mean += gap * len(known) / total
        self.count = total

    def normalized(self, scores: Tensor, eps: float = 1e-4) -> Tensor:
        """(r - m) / (s + ε), with s of n - 1, like `scores`."""
        deviation = math.sqrt(self.squares / max(1, self.count - 1))
        return (scores - self.mean) / (deviation + eps)


@dataclass(frozen=True)
class CheckedReward:
    """A plugin's reward under its name in the config: whatever it returns becomes `Scores` with values `[B]`.

    A list of numbers will do, with None for a sample that could not be scored.
    """

    name: str
    function: Callable[[Samples], Any]

    def to(self, device: torch.device | str) -> Self:
        """Move its weights, if it has any."""
        if (move := getattr(self.function, "to", None)) is not None:
            move(device)
        return self

    def __call__(self, samples: Samples) -> Scores:
        """Score samples. Raises UserError when the reward refuses them, or does not give one number a sample."""
        try:
            answer = self.function(samples)
        except UserError as error:
            raise UserError(f"reward '{self.name}': {error}") from error
        if isinstance(answer, list):
            answer = torch.tensor([torch.nan if score is None else score for score in answer])
        scores = answer if isinstance(answer, Scores) else Scores(answer)
        if not isinstance(scores.values, Tensor) or scores.values.shape != (len(samples),):
            got = getattr(scores.values, "shape", type(scores.values).__name__)
            raise UserError(f"reward '{self.name}' must return one score a sample, [{len(samples)}]; it returned {got}")
        return scores


class WeightedReward:
    """The sum of several rewards with their weights; each is also kept for the log, raw and as it went into the sum.

    gates: the threshold of each reward that is a gate, None for the others.
    """

    def __init__(
        self,
        rewards: Sequence[CheckedReward],
        weights: Sequence[float],
        normalize: Sequence[Normalize] | None = None,
        gates: Sequence[float | None] | None = None,
    ):
        self.rewards = list(rewards)
        self.weights = list(weights)
        self.normalize: list[Normalize] = list(normalize or ["none"] * len(self.rewards))
        thresholds = zip((reward.name for reward in self.rewards), gates or (), strict=False)
        self.gates = {name: gate for name, gate in thresholds if gate is not None}
        self._moments = {
            one.name: Moments() for one, how in zip(rewards, self.normalize, strict=True) if how == "running"
        }
        self._raw: dict[str, list[Tensor]] = defaultdict(list)
        self._shaped: dict[str, list[Tensor]] = defaultdict(list)
        self._asked = 0

    def __call__(self, samples: Samples, group: int = 1, at_once: int | None = None) -> Scores:
        """`[B]` weighted sums; `dimensions` holds each reward's raw scores by name. As `measured`, and remembered."""
        raw, shaped = self._parts(samples, group, at_once)
        for name, scores in raw.items():
            self._raw[name].append(scores.values.detach())
            if self._shapes:
                self._shaped[name].append(shaped[name].values.detach())
        return _summed(raw, shaped)

    def measured(self, samples: Samples, group: int = 1, at_once: int | None = None) -> Scores:
        """The same sums, for samples that are not to be logged.

        group: how many samples of a prompt stand beside each other. at_once: samples that a reward sees at a time.
        Raises UserError where a reward is normalised: such samples are no buffer.
        """
        if set(self.normalize) - {"none"}:
            raise UserError("rewards: samples outside the buffer have no normalised score: leave `normalize` out")
        return _summed(*self._parts(samples, group, at_once))

    def state_dict(self) -> dict[str, Any]:
        """What running means and deviations go on from, by reward."""
        return {name: list(astuple(moments)) for name, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._moments.update({name: Moments(*kept) for name, kept in state.items()})

    def preferred(self, samples: Samples, others: Samples, at_once: int | None = None) -> Tensor:
        """`[B]`: how probably each sample is better than the other one of its prompt; not finite where nobody can say.

        A lone reward that compares (`preferred(samples, others)`, a preference model) tells it itself; of all others it is
        Bradley and Terry's σ(r(x) - r(x')).
        """
        compare = getattr(self.rewards[0].function, "preferred", None) if len(self.rewards) == 1 else None
        if compare is None:
            scores = (self.measured(some, at_once=at_once).values for some in (samples, others))
            return (next(scores) - next(scores)).sigmoid()
        self._asked += len(samples) + len(others)
        size = at_once or max(1, len(samples))
        found = [compare(samples[i : i + size], others[i : i + size]) for i in range(0, len(samples), size)]
        return torch.cat(found)

    def drain(self) -> dict[str, Tensor]:
        """Of all samples scored since the last drain, by name: `reward/<name>`, the mean of the raw scores; where rewards
        are weighted against each other, `shaped/<name>`, the deviation of what went into the sum; and `gate/<name>`, the
        share of samples that a gate let through. And `queries`: about how many samples they were asked, logged or not.
        """
        means = {f"reward/{name}": _known(values).mean() for name, values in self._raw.items()}
        spreads = {f"shaped/{name}": _known(values).std(correction=0) for name, values in self._shaped.items()}
        known = {name: _known(self._raw[name]) for name in self.gates if name in self._raw}
        shares = {f"gate/{name}": (scores >= self.gates[name]).float().mean() for name, scores in known.items()}
        queries = {"queries": torch.tensor(float(self._asked))} if self._asked else {}
        self._raw.clear()
        self._shaped.clear()
        self._asked = 0
        return means | spreads | shares | queries

    @property
    def _shapes(self) -> bool:
        """Whether the sum is more than one raw reward."""
        return len(self.rewards) > 1 or self.normalize != ["none"]

    def _parts(self, samples: Samples, group: int, at_once: int | None) -> tuple[dict[str, Scores], dict[str, Scores]]:
        """By name, the raw scores of each reward and w_k r_k."""
        self._asked += len(samples)
        raw = {one.name: _in_pieces(one, samples, at_once or max(1, len(samples))) for one in self.rewards}
        shaped = {}
        for (name, scores), weight, how in zip(raw.items(), self.weights, self.normalize, strict=True):
            others = {gate: least for gate, least in self.gates.items() if gate != name}
            normalized = _normalized(_let_through(scores, raw, others), how, group, name, self._moments.get(name))
            shaped[name] = _weighted(normalized, weight * _own_weights(samples, name, scores.values))
        return raw, shaped


def _in_pieces(reward: CheckedReward, samples: Samples, size: int) -> Scores:
    pieces = [reward(samples[i : i + size]) for i in range(0, max(1, len(samples)), size)]
    if len(pieces) == 1:
        return pieces[0]
    units = [piece.units for piece in pieces if piece.units is not None]
    spans = [row for piece in pieces for row in piece.spans or ()]
    values = torch.cat([piece.values for piece in pieces])
    places = [piece.places for piece in pieces if piece.places is not None]
    wide = _as_wide(units, torch.cat) if units else None
    return Scores(values, units=wide, spans=spans or None, places=torch.cat(places) if places else None)


def _let_through(scores: Scores, raw: Mapping[str, Scores], gates: Mapping[str, float]) -> Scores:
    """The scores, 0 where a gate is closed, even if there is none then; a gate without a score is open."""
    values, units, spans = scores.values, scores.units, scores.spans
    for name, least in gates.items():
        closed = raw[name].values.to(values.device) < least
        values = torch.where(closed, 0, values)
        units = None if units is None else torch.where(closed[:, None], 0, units)
        spans = _scaled(spans, (~closed).float())
    return Scores(values, units=units, spans=spans)


def _own_weights(samples: Samples, name: str, like: Tensor) -> Tensor:
    """`[B]`: what each sample's prompt says that a reward counts; 1 where it says nothing."""
    factors = [prompt.metadata.get(WEIGHTS, {}).get(name, 1.0) for prompt in samples.prompts]
    return torch.tensor(factors, dtype=like.dtype if like.is_floating_point() else None, device=like.device)


def _normalized(scores: Scores, how: Normalize, group: int, name: str, moments: Moments | None) -> Scores:
    """moments: of what this reward said before, where that is what it is compared with."""
    if how == "none":
        return scores
    if scores.units is not None or scores.spans is not None:
        raise UserError(f"reward '{name}' tells what each part earned, which is not normalised: leave `normalize` out")
    values = scores.values
    if moments is not None:
        moments.add(values)
        return Scores(moments.normalized(values))
    normalized = grouped(values, group if how == "group" else len(values))
    return Scores(torch.where(values.isfinite(), normalized, values))


def _weighted(scores: Scores, weights: Tensor) -> Scores:
    """weights: `[B]`."""
    units = None if scores.units is None else weights[:, None] * scores.units
    return Scores(weights * scores.values, units=units, spans=_scaled(scores.spans, weights))


def _scaled(spans: Spans | None, weights: Tensor) -> Spans | None:
    """What segments earned, times the weight of their sample."""
    if spans is None:
        return None
    return [
        [(end, weight * earned) for end, earned in row] for weight, row in zip(weights.tolist(), spans, strict=True)
    ]


def _summed(raw: dict[str, Scores], shaped: dict[str, Scores]) -> Scores:
    parts = list(shaped.values())
    device = parts[0].values.device
    units = [part.units.to(device) for part in parts if part.units is not None]
    total = torch.stack([part.values.to(device) for part in parts]).sum(dim=0)
    dimensions = {name: scores.values for name, scores in raw.items()}
    together = _as_wide(units, lambda rows: torch.stack(rows).sum(dim=0)) if units else None
    places = [scores.places.to(device) for scores in raw.values() if scores.places is not None]
    stays = torch.stack(places).amin(dim=0) if places else None  # what every reward that tells would keep
    return Scores(total, dimensions, together, _joined([part.spans for part in parts if part.spans]), stays)


def _joined(spans: Sequence[Spans]) -> Spans | None:
    """What segments earned by several rewards, which need not have cut the texts alike."""
    return [[one for row in rows for one in row] for rows in zip(*spans, strict=True)] or None


def _as_wide(units: Sequence[Tensor], combine: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """What `[B, U]` tensors make together, each as wide as the widest."""
    width = max(rows.shape[1] for rows in units)
    return combine([pad(rows, (0, width - rows.shape[1])) for rows in units])


def _known(values: Sequence[Tensor]) -> Tensor:
    """All that are finite, as one."""
    joined = torch.cat(list(values)).float()
    return joined[joined.isfinite()]
