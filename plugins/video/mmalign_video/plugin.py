"""What mmalign-video offers. Importing this file imports nothing heavy."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.hookspecs import hookimpl
from mmalign.specs import GuidanceSpec, MetricSpec, ModelSpec, RewardSpec

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.records import Samples

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg"})


@hookimpl
def mmalign_models() -> Iterator[ModelSpec]:
    """Any text-to-video pipeline of diffusers whose family we know; what rates videos, as they are or on their way."""
    home, paper = "mmalign_video.models", "arXiv:2501.13918"
    yield ModelSpec("diffusers-video", f"{home}:VideoModel", process="denoising")
    yield ModelSpec("video-reward", f"{home}.judge:VideoJudge", process="scoring", paper=paper)
    yield ModelSpec("latent-video-reward", f"{home}.latent:LatentVideoReward", process="scoring", paper=paper)


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """What a trained VideoReward says of videos; whether they show what the prompt says, fact by fact."""
    yield RewardSpec("video-reward", "mmalign_video.rewards.video_reward:VideoReward", paper="arXiv:2501.13918")
    yield RewardSpec("dsg", "mmalign_video.rewards.dsg:SceneGraph", paper="arXiv:2310.18235")


@hookimpl
def mmalign_metrics() -> Iterator[MetricSpec]:
    """What people would say of videos, by any reward that says it in several dimensions."""
    home = "mmalign_video.metrics.worldsimbench:WorldSimBench"
    yield MetricSpec("worldsimbench", home, paper="arXiv:2410.18072")


@hookimpl
def mmalign_guidance() -> Iterator[GuidanceSpec]:
    """Guidance by a reward of noisy latents."""
    yield GuidanceSpec(
        "flow-nrg",
        "mmalign_video.guidance.flow_nrg:FlowNrg",
        needs=frozenset({"guided"}),
        reward="own",
        paper="arXiv:2501.13918",
    )


@hookimpl
def mmalign_write_samples(samples: "Samples", folder: Path) -> Sequence[Path] | None:
    """Videos as MP4 files, with a contact sheet `grid.png` beside them; samples that are no videos are left to others."""
    shape = getattr(samples.made, "shape", ())
    if len(shape) != 5 or shape[2] != 3:
        return None
    from mmalign_video import videos

    return videos.write(samples, folder)


@hookimpl(tryfirst=True)
def mmalign_read_media(path: Path) -> "Tensor | None":
    """A video file as frames, at its own rate, or its mean where it varies. GIFs that do not move are pictures of others."""
    if path.suffix.lower() not in VIDEOS | {".gif"}:
        return None
    from mmalign_video import videos

    frames = videos.read(path)
    return None if path.suffix.lower() == ".gif" and len(frames) == 1 else frames


@hookimpl
def mmalign_frame_rate(path: Path) -> float | None:
    """A video's own, or its mean where it varies."""
    if path.suffix.lower() not in VIDEOS | {".gif"}:
        return None
    from mmalign_video import videos

    return videos.frame_rate(path)
