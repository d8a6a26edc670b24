"""What mmalign itself offers: objectives, rewards of texts, sources of data and guidance."""

from collections.abc import Iterator

from mmalign.hookspecs import hookimpl
from mmalign.specs import DataSpec, GuidanceSpec, ObjectiveSpec, RewardSpec

_LABELLED = frozenset({"prompt", "sample", "label"})
_PAIRS = frozenset({"prompt", "chosen", "rejected"})
_SAMPLES = frozenset({"prompt", "sample"})
_SCORED = frozenset({"prompt", "sample", "score"})
_LIKELIHOOD = frozenset({"likelihood"})
_DIFFERENTIABLE = frozenset({"differentiable"})
_ROLLOUTS = frozenset({"rollouts"})
_SCORING = frozenset({"scoring"})
_PREFERENCES = frozenset({"prompt", "first", "second", "preferences", "strengths"})
_PERSONAL = _PREFERENCES | {"annotator"}
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
    "ld-dpo": "arXiv:2409.06411",
    "diffusion-dpo": "arXiv:2311.12908",
    "flow-dpo": "arXiv:2501.13918",
}
"""What trains on pairs with any likelihood, surrogates too."""

_ON_GROUPS = {
    "grpo": "arXiv:2402.03300",
    "dr-grpo": "arXiv:2503.20783",
    "dapo": "arXiv:2503.14476",
    "gspo": "arXiv:2507.18071",
    "rloo": "arXiv:2402.14740",
}
"""What compares the samples of a prompt that the model drew itself."""

_ON_UNITS = (
    ("orpo", "exact-likelihood", "arXiv:2403.07691"),
    ("rlhf-v", "changed-units", "arXiv:2312.00849"),
    ("tdpo", "divergence", "arXiv:2404.11999"),
    ("tis-dpo", "exact-likelihood", "arXiv:2410.04350"),
    ("t-reg", "exact-likelihood", "arXiv:2412.02685"),
)
"""What trains on pairs and asks more of the model: name, capability, paper."""

_ON_SAMPLES = (
    ("sft", _SAMPLES, _LIKELIHOOD, ""),
    ("superhf", _SAMPLES, _LIKELIHOOD | {"divergence"}, "arXiv:2310.16763"),
    ("spin", _SAMPLES, _LIKELIHOOD, "arXiv:2401.01335"),
    ("rwr", _SCORED, _LIKELIHOOD, "arXiv:2305.13301"),
    ("fdpo", _SEGMENTS, _LIKELIHOOD | {"segments"}, "arXiv:2308.06394"),
    ("flow-rwr", _SCORED, _LIKELIHOOD, "arXiv:2501.13918"),
    ("nft", _SCORED, _LIKELIHOOD | {"divergence", "timed"}, "arXiv:2509.16117"),
)
"""What trains on single samples: name, columns, needs, paper."""

_OF_REWARDS = {
    "bradley-terry": (_PREFERENCES, ""),
    "btt": (_PREFERENCES, "arXiv:2501.13918"),
    "pal": (_PERSONAL, "arXiv:2406.08469"),
    "vpl": (_PERSONAL, "arXiv:2408.10075"),
    "reward-regression": (_RATINGS, "arXiv:2406.08673"),
    "segment-classification": (_SEGMENTS, "arXiv:2308.06394"),
}
"""What trains models that score."""


@hookimpl
def mmalign_objectives() -> Iterator[ObjectiveSpec]:
    """Preference, supervised, reward-gradient, policy-gradient and reward-model objectives."""
    for name, paper in _ON_PAIRS.items():
        yield ObjectiveSpec(name, _home(name), needs=_LIKELIHOOD, columns=_PAIRS, paper=paper)
    for name, capability, paper in _ON_UNITS:
        yield ObjectiveSpec(name, _home(name), needs=_LIKELIHOOD | {capability}, columns=_PAIRS, paper=paper)
    yield ObjectiveSpec(
        "cream", _home("cream"), needs=_LIKELIHOOD, columns=_PAIRS | {"consistency"}, paper="arXiv:2410.12735"
    )
    for name, needs, paper in (
        ("mdpo", _LIKELIHOOD, "arXiv:2406.11839"),
        ("povid", _LIKELIHOOD | {"misreadings"}, "arXiv:2402.11411"),
    ):
        yield ObjectiveSpec(name, _home(name), needs=needs, columns=_PAIRS | {"degraded"}, paper=paper)
    yield ObjectiveSpec("kto", _home("kto"), needs=_LIKELIHOOD, columns=_LABELLED, paper="arXiv:2402.01306")
    for name, columns, needs, paper in _ON_SAMPLES:
        yield ObjectiveSpec(name, _home(name), needs=needs, columns=columns, paper=paper)
    for name, paper in {
        "alignprop": "arXiv:2310.03739",
        "draft": "arXiv:2309.17400",
        "refl": "arXiv:2304.05977",
        "drtune": "arXiv:2405.00760",
    }.items():
        yield ObjectiveSpec(name, _home(name), needs=_DIFFERENTIABLE, reward="differentiable", paper=paper)
    for name, paper in _ON_GROUPS.items():
        yield ObjectiveSpec(name, _home(name), needs=_ROLLOUTS, reward="any", samples_per_prompt=2, paper=paper)
    for name, paper in {"flow-grpo": "arXiv:2505.05470", "grpo-guard": "arXiv:2510.22319"}.items():
        yield ObjectiveSpec(
            name, _home(name), needs=_ROLLOUTS | {"steps"}, reward="any", samples_per_prompt=2, paper=paper
        )
    for name, paper in {"d3po": "arXiv:2311.13231", "prdp": "arXiv:2402.08714"}.items():
        yield ObjectiveSpec(
            name, _home(name), needs=_ROLLOUTS, reward="any", samples_per_prompt=2, neighbours=2, paper=paper
        )
    for name, needs, paper in (
        ("ddpo", _ROLLOUTS, "arXiv:2305.13301"),
        ("ppo", _ROLLOUTS | {"values"}, "arXiv:1707.06347"),
    ):
        yield ObjectiveSpec(name, _home(name), needs=needs, reward="any", paper=paper)
    for name, needs, paper in (
        ("reinforce", _ROLLOUTS, ""),
        ("remax", _ROLLOUTS | {"likeliest"}, "arXiv:2310.10505"),
        ("nash-md", _ROLLOUTS | {"mixture"}, "arXiv:2312.00886"),
    ):
        yield ObjectiveSpec(name, _home(name), needs=needs, reward="any", reuses_samples=False, paper=paper)
    for name, (columns, paper) in _OF_REWARDS.items():
        yield ObjectiveSpec(name, _home(name), needs=_SCORING, columns=columns, paper=paper)


def _home(name: str) -> str:
    return f"mmalign.objectives.{name.replace('-', '_')}:objective"


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """What any text can be asked, and reward models that mmalign trained, alone or several together."""
    yield RewardSpec("reward-model", "mmalign.rewards.trained:RewardModel")
    yield RewardSpec("implicit", "mmalign.rewards.implicit:Implicit", paper="arXiv:2305.18290")
    yield RewardSpec("generated", "mmalign.rewards.generated:Generated", paper="arXiv:2412.15156")
    yield RewardSpec("annotator", "mmalign.rewards.annotator:Annotator")
    yield RewardSpec("ensemble", "mmalign.rewards.ensemble:Ensemble", paper="arXiv:2310.02743")
    yield RewardSpec("length", "mmalign.rewards.texts:Length")
    yield RewardSpec("regex", "mmalign.rewards.texts:Regex")


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Files of prompts, of pairs, of samples and of what was said of them."""
    for name, home, columns in (
        ("prompts", "sources:Prompts", frozenset({"prompt"})),
        ("pairs", "sources:Pairs", _PAIRS),
        ("samples", "sources:SampleRows", _SAMPLES),
        ("labelled", "sources:LabelledRows", _LABELLED),
        ("scored", "sources:ScoredRows", _SCORED),
        ("directions", "directions:directions", frozenset({"prompt"})),
        ("text-directions", "directions:text_directions", frozenset({"prompt"})),
        ("unpaired", "conditions:unpaired", _LABELLED),
        ("goal-pairs", "conditions:goal_pairs", _PAIRS),
        ("text-prompts", "texts:TextPrompts", frozenset({"prompt"})),
        ("text-pairs", "texts:TextPairs", _PAIRS),
        ("text-samples", "texts:TextSamples", _SAMPLES),
        ("text-scored", "texts:TextScored", _SCORED),
        ("text-unpaired", "conditions:text_unpaired", _LABELLED),
        ("text-goal-pairs", "conditions:text_goal_pairs", _PAIRS),
        ("preferences", "feedback:Preferences", _PERSONAL),
        ("ratings", "feedback:Ratings", _RATINGS),
        ("text-preferences", "feedback:TextPreferences", _PERSONAL),
        ("text-ratings", "feedback:TextRatings", _RATINGS),
        ("text-segments", "feedback:TextSegments", _SEGMENTS),
    ):
        yield DataSpec(name, f"mmalign.data.{home}", columns=columns)


@hookimpl
def mmalign_guidance() -> Iterator[GuidanceSpec]:
    """What leads samples of any model, or of those whose samplers can be led."""
    yield GuidanceSpec(
        "reward-gradient",
        "mmalign.samplers.guided:RewardGradient",
        needs=frozenset({"guided"}),
        reward="differentiable",
        paper="arXiv:2302.07121",
    )
    yield GuidanceSpec(
        "repair", "mmalign.samplers.repair:Repair", needs=frozenset({"repair"}), paper="arXiv:2411.15115"
    )
    yield GuidanceSpec("best-of-n", "mmalign.samplers.guided:BestOfN", paper="arXiv:2112.09332")
