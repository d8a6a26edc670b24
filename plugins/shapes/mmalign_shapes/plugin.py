"""What mmalign-shapes adds to mmalign: data, the oracle as a reward, and the command that trains its checkpoints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmalign import DataSpec, JudgeSpec, MetricSpec, RewardSpec, hookimpl

if TYPE_CHECKING:
    import typer

MMALIGN_API = ">=1,<2"


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """The oracle, of pictures, of videos and of captions."""
    yield RewardSpec("oracle", "mmalign_shapes.rewards:OracleReward")
    yield RewardSpec("video-oracle", "mmalign_shapes.rewards:VideoOracle")
    yield RewardSpec("caption-oracle", "mmalign_shapes.rewards:CaptionOracle")
    yield RewardSpec("caption-recall", "mmalign_shapes.rewards:CaptionRecall")


@hookimpl
def mmalign_metrics() -> Iterator[MetricSpec]:
    """Hallucination, recall and length of captions."""
    yield MetricSpec("captions", "mmalign_shapes.metrics:Captions")


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Prompts about two things; pictures to describe, their descriptions and corrections of wrong ones; videos."""
    yield DataSpec("shapes-prompts", "mmalign_shapes.prompts:ShapesPrompts")
    yield DataSpec("shapes-images", "mmalign_shapes.images:ShapesImages")
    yield DataSpec("shapes-captions", "mmalign_shapes.images:ShapesCaptions", columns=frozenset({"prompt", "sample"}))
    yield DataSpec(
        "shapes-corrections",
        "mmalign_shapes.images:ShapesCorrections",
        columns=frozenset({"prompt", "chosen", "rejected"}),
        paper="arXiv:2312.00849",
    )
    yield DataSpec(
        "shapes-feedback",
        "mmalign_shapes.images:ShapesFeedback",
        columns=frozenset({"prompt", "sample", "segments"}),
        paper="arXiv:2404.05046",
    )
    yield DataSpec(
        "shapes-localisation",
        "mmalign_shapes.localisation:ShapesLocalisation",
        columns=frozenset({"prompt", "sample"}),
        paper="arXiv:2503.01785",
    )
    yield DataSpec("shapes-video-prompts", "mmalign_shapes.videos:ShapesVideoPrompts")
    yield DataSpec("shapes-videos", "mmalign_shapes.videos:ShapesVideos", columns=frozenset({"prompt", "sample"}))
    yield DataSpec(
        "shapes-video-pairs",
        "mmalign_shapes.videos:ShapesVideoPairs",
        columns=frozenset({"prompt", "first", "second", "preferences", "strengths"}),
        paper="arXiv:2501.13918",
    )


@hookimpl
def mmalign_judges() -> Iterator[JudgeSpec]:
    """The oracle, which reads any text and sees any picture of shapes."""
    yield JudgeSpec("shapes-oracle", "mmalign_shapes.judge:ShapesOracle")


@hookimpl
def mmalign_commands(app: "typer.Typer") -> None:
    """`mmalign shapes ...`."""
    from mmalign_shapes.commands import app as shapes

    app.add_typer(shapes, name="shapes")
