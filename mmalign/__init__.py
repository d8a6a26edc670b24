"""mmalign aligns multimodal models with feedback. This is what a plugin author may import."""

__version__ = "0.1.0"

from mmalign.errors import RunFailure, UserError
from mmalign.hookspecs import hookimpl
from mmalign.specs import (
    API_VERSION,
    DataSpec,
    GuidanceSpec,
    JudgeSpec,
    MetricSpec,
    ModelSpec,
    Objective,
    ObjectiveSpec,
    RewardSpec,
)

__all__ = [
    "API_VERSION",
    "DataSpec",
    "GuidanceSpec",
    "JudgeSpec",
    "MetricSpec",
    "ModelSpec",
    "Objective",
    "ObjectiveSpec",
    "RewardSpec",
    "RunFailure",
    "UserError",
    "hookimpl",
]
