"""The frozen declarations that plugins yield: what a part is called, what builds it, what it needs and offers.

A spec names what it builds as an object or as `"package.module:attribute"`; the module is imported only when the part is
chosen. The signature of what is built is the part's config schema (see `mmalign.options`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

API_VERSION = 1
"""Version of the plugin contract (hooks, specs, records). Raised when a plugin written for the old one would break."""


@dataclass(frozen=True)
class Spec:
    """What all declarations share.

    name: how configs call the part, unique within its kind; kebab-case.
    build: the callable (or record) itself, or `"package.module:attribute"`.
    paper: where it comes from, for example "arXiv:2311.12908".
    """

    kind: ClassVar[str] = "part"
    name: str
    build: Any
    paper: str = field(default="", kw_only=True)

    def load(self) -> Any:
        """What `build` names, imported now if it was a string."""
        if not isinstance(self.build, str):
            return self.build
        module, _, attribute = self.build.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A model family. `build(**options)` returns the adapter that its process asks for (`mmalign.processes`).

    process: the process that makes capabilities of the adapter, for example "denoising".
    """

    kind: ClassVar[str] = "model"
    process: str = field(kw_only=True)


@dataclass(frozen=True)
class Objective:
    """Two functions side by side, or three. Keyword-only parameters of these are the objective's options.

    loss: `loss(**tensors, *, options) -> Loss`, a pure function of named tensors.
    terms: `terms(parts, batch, rng, *, options) -> dict[str, Tensor]`, where the loss's arguments come from.
    advantages: `advantages(parts, experience, *, options) -> dict[str, Tensor]`, for objectives on rollouts: what is worked
        out once for a whole buffer, without gradient and before it trains. Each tensor has `N` rows, one a sample; the
        batches that `terms` gets hold theirs beside their "rollout".
    misfits: `misfits(*, options)`, which of the options that it names do not go together: (option, sentence) of each. It is
        asked with the options before anything is built.
    """

    loss: Callable[..., Any]
    terms: Callable[..., dict[str, Any]]
    advantages: Callable[..., dict[str, Any]] | None = None
    misfits: Callable[..., Iterable[tuple[str, str]]] | None = None


@dataclass(frozen=True)
class ObjectiveSpec(Spec):
    """A training objective. `build` is (or names) an `Objective`.

    needs: capabilities that the model must offer, for example {"likelihood"}. With "rollouts" among them the objective
        trains on buffers of the model's own samples, not on rows, and has `advantages`.
    columns: what a row of data must hold, for example {"prompt", "chosen", "rejected"}.
    reward: what it asks of the run's rewards: "none", "any" or "differentiable".
    samples_per_prompt: how many samples of a prompt it must have to compare.
    reuses_samples: whether it makes up for weights that moved since samples were drawn, so that they may train again.
    neighbours: how many samples of a prompt stand side by side in a batch of rollouts; 2 where it takes pairs.
    """

    kind: ClassVar[str] = "objective"
    needs: frozenset[str] = field(default=frozenset(), kw_only=True)
    columns: frozenset[str] = field(default=frozenset({"prompt"}), kw_only=True)
    reward: Literal["none", "any", "differentiable"] = field(default="none", kw_only=True)
    samples_per_prompt: int = field(default=1, kw_only=True)
    reuses_samples: bool = field(default=True, kw_only=True)
    neighbours: int = field(default=1, kw_only=True)

    @property
    def feed(self) -> Literal["rows", "rollouts"]:
        """Which feed it trains on."""
        return "rollouts" if "rollouts" in self.needs else "rows"


@dataclass(frozen=True)
class RewardSpec(Spec):
    """A reward. `build(**options)` returns a callable on `Samples` that gives `[B]` or `Scores`, higher is better.

    A preference model may also have `preferred(samples, others)`, which gives `[B]`: how probably each sample is better than
    the other one of its prompt. One whose scores depend on the samples that are scored together says so by `compares = True`.

    differentiable: gradient flows from the scores to `samples.media`.
    """

    kind: ClassVar[str] = "reward"
    differentiable: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class JudgeSpec(Spec):
    """A judge of answers. `build(**options)` returns what gives all that `offers` names (`mmalign.parts.FactJudge`).

    offers: "facts", if it finds what an answer claims; "verdicts", if it says whether that is true of the pictures;
        "answers", if it answers in words (`mmalign.parts.Asks`).
    """

    kind: ClassVar[str] = "judge"
    offers: frozenset[str] = field(default=frozenset({"facts", "verdicts"}), kw_only=True)


@dataclass(frozen=True)
class DataSpec(Spec):
    """A source of rows. `build(**options)` returns a sequence (`len`, `[i]`) of dicts with the named columns.

    columns: what each row holds: "prompt" (a `Prompt`), "chosen" and "rejected" (`Media`), "sample" (`Media`).
    """

    kind: ClassVar[str] = "dataset"
    columns: frozenset[str] = field(default=frozenset({"prompt"}), kw_only=True)


@dataclass(frozen=True)
class GuidanceSpec(Spec):
    """A way to draw samples without training that is not the model's alone, such as one that rewards lead. `build(**options)`
    returns a callable `(policy, reward, prompts, seeds) -> Samples`, one sample a prompt, where `reward` gives `Scores` for
    `Samples`.

    It may have `to(device)`, and `warnings()`: sentences about what went wrong since it was asked last.

    needs: capabilities that the model must offer, for example {"guided"}.
    reward: what it asks of the rewards: "any" or "differentiable"; "own" where it brings one itself, and takes an option
        `weights`: how much each dimension of its own counts, by name; "none" where it follows none. With the last two it is
        called with None for `reward`.
    """

    kind: ClassVar[str] = "guidance"
    needs: frozenset[str] = field(default=frozenset(), kw_only=True)
    reward: Literal["any", "differentiable", "own", "none"] = field(default="any", kw_only=True)


@dataclass(frozen=True)
class MetricSpec(Spec):
    """A benchmark's numbers. `build(**options)` returns a `mmalign.parts.Metric`: what is counted of each sample, and the
    formulas of the sums.

    judge: what it asks of `evaluation.judge`, as judges offer it, for example {"facts", "verdicts"}.
    """

    kind: ClassVar[str] = "metric"
    judge: frozenset[str] = field(default=frozenset(), kw_only=True)
