"""What a run achieved, in sentences."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmalign.builtin.statistics import direction
from mmalign.report.reading import Record
from mmalign.words import decimals, plus_minus

_VERBS = {1: "rose", -1: "fell", 0: "stayed"}


def verdict(record: Record) -> str:
    """The outcome: every reward before and after, and what that means together."""
    if not record.rewards:
        return _without_evaluation(record)
    roles = ("trained", "held-out")
    clauses = [_clause(name, r) for role in roles for name, r in record.rewards.items() if r["role"] == role]
    if not clauses:
        return "No reward was evaluated; what was counted before and after stands in the table."
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}. {judgement(record.rewards)}".strip()


def judgement(rewards: Mapping[str, Any]) -> str:
    """What the trained and the held-out rewards mean together; empty where nothing follows."""
    trained, held_out = set(_ways(rewards, "trained")), set(_ways(rewards, "held-out"))
    if not trained:
        return ""
    if 1 not in trained:
        return "Training did not clearly raise what it was trained on."
    if -1 in held_out:
        return "What the run was trained on rose while what it never saw fell: reward hacking is likely."
    if 1 in held_out:
        return "The gain carries over to what the run was not trained on."
    if held_out:
        return "No held-out reward clearly confirms the gain."
    return "No held-out reward was measured, so nothing shows that the gain is real."


def status(record: Record) -> str:
    """How far the run is."""
    if not record.finished:
        return f"not finished: step {record.done} of {record.planned}"
    if record.done < record.planned:
        return f"stopped early, at step {record.done} of {record.planned}"
    return f"finished, {record.done} steps"


def number(value: float | None) -> float:
    """A number of `evaluation.json`, where null stands for NaN."""
    return math.nan if value is None else value


def _clause(name: str, reward: Mapping[str, Any]) -> str:
    """`the held-out reward oracle rose from 0.61 to 0.72 (+0.112 ± 0.009)`."""
    difference, se = (number(reward["difference"][key]) for key in ("mean", "se"))
    before, after = (number(reward[when]["mean"]) for when in ("before", "after"))
    subject = f"the {reward['role']} reward {name}"
    if not math.isfinite(difference):
        return f"{subject} could not be compared, since no sample was scored twice"
    places = decimals(se)
    change = plus_minus(difference, se, sign=True)
    way = direction(difference, se)
    verb = "stayed about the same," if way == 0 else _VERBS[way]
    return f"{subject} {verb} from {before:.{places}f} to {after:.{places}f} ({change})"


def _ways(rewards: Mapping[str, Any], role: str) -> Iterator[int]:
    for reward in rewards.values():
        if reward["role"] == role:
            yield direction(number(reward["difference"]["mean"]), number(reward["difference"]["se"]))


def _without_evaluation(record: Record) -> str:
    if record.option("evaluation", "prompts") is None:
        return "This run was not evaluated: its config names no evaluation.prompts, so only its training can be shown."
    return "There is no evaluation after training yet, so nothing can be compared."
