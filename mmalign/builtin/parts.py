"""What mmalign itself offers: objectives and sources of data."""

from collections.abc import Iterator

from mmalign.hookspecs import hookimpl
from mmalign.specs import DataSpec, ObjectiveSpec

_PAIRS = frozenset({"prompt", "chosen", "rejected"})
_LIKELIHOOD = frozenset({"likelihood"})
_DIFFERENTIABLE = frozenset({"differentiable"})


@hookimpl
def mmalign_objectives() -> Iterator[ObjectiveSpec]:
    """Preference, supervised and reward-gradient objectives."""
    home = "mmalign.objectives"
    yield ObjectiveSpec("dpo", f"{home}.dpo:objective", needs=_LIKELIHOOD, columns=_PAIRS, paper="arXiv:2305.18290")
    yield ObjectiveSpec(
        "diffusion-dpo", f"{home}.diffusion_dpo:objective", needs=_LIKELIHOOD, columns=_PAIRS, paper="arXiv:2311.12908"
    )
    yield ObjectiveSpec("sft", f"{home}.sft:objective", needs=_LIKELIHOOD, columns=frozenset({"prompt", "sample"}))
    for name, paper in {
        "alignprop": "arXiv:2310.03739",
        "draft": "arXiv:2309.17400",
        "refl": "arXiv:2304.05977",
        "drtune": "arXiv:2405.00760",
    }.items():
        yield ObjectiveSpec(
            name, f"{home}.{name}:objective", needs=_DIFFERENTIABLE, reward="differentiable", paper=paper
        )


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Files of prompts, of pairs and of samples."""
    yield DataSpec("prompts", "mmalign.data.sources:Prompts")
    yield DataSpec("pairs", "mmalign.data.sources:Pairs", columns=_PAIRS)
    yield DataSpec("samples", "mmalign.data.sources:SampleRows", columns=frozenset({"prompt", "sample"}))
    yield DataSpec("text-prompts", "mmalign.data.texts:TextPrompts")
    yield DataSpec("text-pairs", "mmalign.data.texts:TextPairs", columns=_PAIRS)
    yield DataSpec("text-samples", "mmalign.data.texts:TextSamples", columns=frozenset({"prompt", "sample"}))
