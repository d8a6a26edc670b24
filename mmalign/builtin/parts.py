"""What mmalign itself offers: objectives and sources of data."""

from collections.abc import Iterator

from mmalign.hookspecs import hookimpl
from mmalign.specs import DataSpec, ObjectiveSpec, RewardSpec

_LABELLED = frozenset({"prompt", "sample", "label"})
_PAIRS = frozenset({"prompt", "chosen", "rejected"})
_LIKELIHOOD = frozenset({"likelihood"})
_EXACT = frozenset({"exact-likelihood"})
_DIFFERENTIABLE = frozenset({"differentiable"})
_SCORING = frozenset({"scoring"})
_PREFERENCES = frozenset({"prompt", "first", "second", "preferences", "strengths"})
_RATINGS = frozenset({"prompt", "sample", "ratings"})
_SEGMENTS = frozenset({"prompt", "sample", "segments"})

_ON_PAIRS = {
    "dpo": "arXiv:2305.18290",
    "hinge": "arXiv:2305.10425",
    "ipo": "arXiv:2310.12036",
    "robust": "arXiv:2403.00409",
    "exo": "arXiv:2402.00856",
    "discopop": "arXiv:2406.08414",
    "nca": "arXiv:2402.05369",
    "bco": "arXiv:2404.04656",
    "sppo": "arXiv:2405.00675",
    "apo": "arXiv:2408.06266",
    "anchor": "arXiv:2406.11839",
    "rpo": "arXiv:2405.16436",
    "weighted-sum": "",
    "simpo": "arXiv:2405.14734",
    "cpo": "arXiv:2401.08417",
    "diffusion-dpo": "arXiv:2311.12908",
    "flow-dpo": "arXiv:2501.13918",
}
"""What trains on pairs with any likelihood, surrogates too."""

_OF_REWARDS = {
    "bradley-terry": (_PREFERENCES, ""),
    "btt": (_PREFERENCES, "arXiv:2501.13918"),
    "reward-regression": (_RATINGS, "arXiv:2406.08673"),
    "segment-classification": (_SEGMENTS, "arXiv:2308.06394"),
}
"""What trains models that score."""


@hookimpl
def mmalign_objectives() -> Iterator[ObjectiveSpec]:
    """Preference, supervised, reward-gradient and reward-model objectives."""
    for name, paper in _ON_PAIRS.items():
        yield ObjectiveSpec(name, _home(name), needs=_LIKELIHOOD, columns=_PAIRS, paper=paper)
    yield ObjectiveSpec("orpo", _home("orpo"), needs=_LIKELIHOOD | _EXACT, columns=_PAIRS, paper="arXiv:2403.07691")
    yield ObjectiveSpec("kto", _home("kto"), needs=_LIKELIHOOD, columns=_LABELLED, paper="arXiv:2402.01306")
    yield ObjectiveSpec("sft", _home("sft"), needs=_LIKELIHOOD, columns=frozenset({"prompt", "sample"}))
    for name, paper in {
        "alignprop": "arXiv:2310.03739",
        "draft": "arXiv:2309.17400",
        "refl": "arXiv:2304.05977",
        "drtune": "arXiv:2405.00760",
    }.items():
        yield ObjectiveSpec(name, _home(name), needs=_DIFFERENTIABLE, reward="differentiable", paper=paper)
    for name, (columns, paper) in _OF_REWARDS.items():
        yield ObjectiveSpec(name, _home(name), needs=_SCORING, columns=columns, paper=paper)


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """Reward models that mmalign trained, alone or several together."""
    yield RewardSpec("reward-model", "mmalign.rewards.trained:RewardModel")
    yield RewardSpec("ensemble", "mmalign.rewards.ensemble:Ensemble", paper="arXiv:2310.02743")


def _home(name: str) -> str:
    return f"mmalign.objectives.{name.replace('-', '_')}:objective"


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Files of prompts, of pairs, of samples and of what was said of them."""
    yield DataSpec("prompts", "mmalign.data.sources:Prompts")
    yield DataSpec("pairs", "mmalign.data.sources:Pairs", columns=_PAIRS)
    yield DataSpec("samples", "mmalign.data.sources:SampleRows", columns=frozenset({"prompt", "sample"}))
    yield DataSpec("text-prompts", "mmalign.data.texts:TextPrompts")
    yield DataSpec("text-pairs", "mmalign.data.texts:TextPairs", columns=_PAIRS)
    yield DataSpec("text-samples", "mmalign.data.texts:TextSamples", columns=frozenset({"prompt", "sample"}))
    yield DataSpec("labelled", "mmalign.data.sources:LabelledRows", columns=_LABELLED)
    yield DataSpec("unpaired", "mmalign.data.sources:Unpaired", columns=_LABELLED)
    for name, columns in {"preferences": _PREFERENCES, "ratings": _RATINGS}.items():
        yield DataSpec(name, f"mmalign.data.feedback:{name.title()}", columns=columns)
        yield DataSpec(f"text-{name}", f"mmalign.data.feedback:Text{name.title()}", columns=columns)
    yield DataSpec("text-segments", "mmalign.data.feedback:TextSegments", columns=_SEGMENTS)
