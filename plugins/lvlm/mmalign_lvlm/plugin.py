"""What mmalign-lvlm offers. Importing this file imports nothing heavy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.errors import UserError
from mmalign.hookspecs import hookimpl
from mmalign.specs import DataSpec, GuidanceSpec, JudgeSpec, MetricSpec, ModelSpec, RewardSpec

if TYPE_CHECKING:
    from mmalign.records import Samples


@hookimpl
def mmalign_models() -> Iterator[ModelSpec]:
    """Any vision-language model of transformers that keeps a placeholder token for each image feature, as LLaVA does."""
    yield ModelSpec("vlm", "mmalign_lvlm.models:VisionLanguageModel", process="tokens")
    yield ModelSpec("vlm-reward", "mmalign_lvlm.models:VisionLanguageJudge", process="scoring")


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """Trained models of segments and of critiques, as rewards; rules, where the right answer is known."""
    yield RewardSpec("segment-reward", "mmalign_lvlm.rewards.segments:SegmentReward", paper="arXiv:2404.05046")
    yield RewardSpec("segment-likelihood", "mmalign_lvlm.rewards.segments:SegmentLikelihood", paper="arXiv:2308.06394")
    yield RewardSpec("critiqued", "mmalign_lvlm.rewards.critique:CritiquedReward", paper="arXiv:2502.10391")
    yield RewardSpec("rejected-claims", "mmalign_lvlm.rewards.claims:RejectedClaims", paper="arXiv:2405.17220")
    yield RewardSpec("self-retrieval", "mmalign_lvlm.rewards.retrieval:SelfRetrieval", paper="arXiv:2409.03025")
    for name, rule in {"iou": "BoxOverlap", "confidence": "BoxConfidence", "exact-answer": "ExactAnswer"}.items():
        yield RewardSpec(name, f"mmalign_lvlm.rewards.verifiable:{rule}", paper="arXiv:2503.01785")


@hookimpl
def mmalign_metrics() -> Iterator[MetricSpec]:
    """Benchmarks of hallucination and critique."""
    home = "mmalign_lvlm.metrics"
    yield MetricSpec("chair", f"{home}.chair:Chair", paper="arXiv:1809.02156")
    yield MetricSpec("object-halbench", f"{home}.chair:ObjectHalBench", paper="arXiv:2312.00849")
    yield MetricSpec("pope", f"{home}.pope:Pope", paper="arXiv:2305.10355")
    yield MetricSpec("amber", f"{home}.amber:Amber", paper="arXiv:2311.07397")
    yield MetricSpec("mmhal", f"{home}.mmhal:Mmhal", judge=frozenset({"answers"}), paper="arXiv:2309.14525")
    yield MetricSpec(
        "faithscore", f"{home}.faithscore:FaithScore", judge=frozenset({"facts", "verdicts"}), paper="arXiv:2311.01477"
    )
    for name, metric in {"visco": "visco:Visco", "visco-correction": "visco_correction:ViscoCorrection"}.items():
        yield MetricSpec(name, f"{home}.{metric}", judge=frozenset({"answers"}), paper="arXiv:2412.02172")


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Prompts of benchmarks, from their official files; pairs of answers, with pictures that are also shown worse or made by the
    model itself.
    """
    pairs = frozenset({"prompt", "chosen", "rejected"})
    worse = pairs | {"degraded"}
    yield DataSpec("degraded-pairs", "mmalign_lvlm.degraded:DegradedPairs", columns=worse, paper="arXiv:2406.11839")
    own = "mmalign_lvlm.corrections:SelfCorrections"
    yield DataSpec("self-corrections", own, columns=pairs, paper="arXiv:2410.04055")
    for name, source, paper in (
        ("pope", "PopePrompts", "arXiv:2305.10355"),
        ("pope-questions", "PopeQuestions", "arXiv:2305.10355"),
        ("coco-images", "CocoImages", "arXiv:1809.02156"),
        ("object-halbench", "ObjectHalBenchPrompts", "arXiv:2312.00849"),
        ("mmhal", "MmhalPrompts", "arXiv:2309.14525"),
        ("amber", "AmberPrompts", "arXiv:2311.07397"),
    ):
        yield DataSpec(name, f"mmalign_lvlm.benchmarks:{source}", paper=paper)
    for name, source in {"visco": "ViscoPrompts", "visco-corrections": "ViscoCorrections"}.items():
        yield DataSpec(name, f"mmalign_lvlm.visco:{source}", paper="arXiv:2412.02172")


@hookimpl
def mmalign_judges() -> Iterator[JudgeSpec]:
    """A vision-language model here, or one behind an endpoint."""
    everything = frozenset({"facts", "verdicts", "answers"})
    home = "mmalign_lvlm.judges"
    yield JudgeSpec("vlm", f"{home}.vlm:VisionLanguageJudge", offers=everything, paper="arXiv:2405.17220")
    yield JudgeSpec("http", f"{home}.http:HttpJudge", offers=everything)


@hookimpl
def mmalign_guidance() -> Iterator[GuidanceSpec]:
    """What a model says after it looked again, or thought again, of all that answer in words."""
    for name, build, paper in (
        ("lookback", "lookback:LookBack", "arXiv:2412.02172"),
        ("self-correction", "self_correction:SelfCorrection", "arXiv:2410.04055"),
    ):
        yield GuidanceSpec(
            name, f"mmalign_lvlm.guidance.{build}", needs=frozenset({"likeliest"}), reward="none", paper=paper
        )


@hookimpl
def mmalign_split(text: str) -> Sequence[tuple[int, int]]:
    """Sub-sentences."""
    from mmalign_lvlm import segments

    return segments.split(text)


@hookimpl
def mmalign_write_samples(samples: "Samples", folder: Path) -> Sequence[Path] | None:
    """Answers as text files, with `responses.jsonl` beside them; samples that are no texts are left to others."""
    if not isinstance(samples.made, list | tuple):
        return None
    from mmalign_lvlm import answers

    return answers.write(samples, folder)


@hookimpl
def mmalign_read_media(path: Path) -> str | None:
    """A text file as an answer."""
    if path.suffix.lower() != ".txt":
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
