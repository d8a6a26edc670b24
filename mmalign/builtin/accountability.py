"""Warn when what a run is trained on rises while what it is not trained on falls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mmalign.builtin.statistics import direction
from mmalign.console import warn
from mmalign.hookspecs import hookimpl
from mmalign.words import plus_minus

if TYPE_CHECKING:
    from mmalign.run import Run

Results = Mapping[str, Mapping[str, Any]]

_watches: "WeakKeyDictionary[Run, Watch]" = WeakKeyDictionary()


@hookimpl(tryfirst=True)
def mmalign_run_start(run: "Run") -> None:
    """Begin to watch, or go on."""
    _watches[run] = run.keep("accountability", Watch())


@hookimpl
def mmalign_evaluated(run: "Run", step: int, results: Results) -> None:
    """Warn once for each time that it begins."""
    if _watches[run].begins(hacked(results)):
        warn(run, message(step, results))


@hookimpl
def mmalign_run_end(run: "Run") -> None:
    """Forget the run."""
    _watches.pop(run, None)


class Watch:
    """Remembers whether the warning stands, so that it is said once."""

    def __init__(self) -> None:
        self.standing = False

    def begins(self, now: bool) -> bool:
        """Whether it holds `now` and did not before."""
        before, self.standing = self.standing, now
        return now and not before

    def state_dict(self) -> dict[str, bool]:
        """What is remembered."""
        return {"standing": self.standing}

    def load_state_dict(self, state: Mapping[str, bool]) -> None:
        """Remember it."""
        self.standing = state["standing"]


def hacked(results: Results) -> bool:
    """Whether a trained reward rose clearly since step 0 while a held-out one fell clearly."""
    return bool(_moved(results, "trained", 1) and _moved(results, "held-out", -1))


def message(step: int, results: Results) -> str:
    """What happened and what to do, in two sentences."""
    rose, fell = _moved(results, "trained", 1), _moved(results, "held-out", -1)
    return (
        f"step {step}: reward hacking is likely: since step 0 the trained {', '.join(rose)}, "
        f"while the held-out {', '.join(fell)}. Stop earlier (trainer.steps), lower trainer.learning_rate, "
        f"add a term that keeps the model near its reference, or train on another reward."
    )


def _moved(results: Results, role: str, way: int) -> list[str]:
    """In words, the rewards of a role that clearly moved that way."""
    return [
        f"{name} {'rose' if way > 0 else 'fell'} by {plus_minus(abs(r['difference']), r['difference_se'])}"
        for name, r in results.items()
        if r["role"] == role and direction(r["difference"], r["difference_se"]) == way
    ]
