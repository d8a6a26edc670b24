"""What a document that collects feedback may hold; `mmalign.collection` says what it means."""

from typing import Any

from pydantic import Field

from mmalign.config import Count, DataPart, FolderName, Part, Section, Seed


class Collecting(Section):
    """How much is judged."""

    samples_per_prompt: Count = 1
    """How many answers of the model each prompt gets."""
    batch_size: Count = 16
    """Answers made and judged at a time; what is finished is kept after each batch."""
    seed: Seed = 0
    """Where the randomness of the model's answers comes from."""


class Collection(Section):
    """Feedback to collect; nothing is trained."""

    name: FolderName
    """Name of the collection, which is also its folder's."""
    plugins: list[str] = Field(default=[])
    """Python files with further plugins, relative to the config."""
    model: Part | None = None
    """What answers the prompts; without one the answers of the data are judged."""
    data: DataPart
    """Prompts, or prompts with answers."""
    judge: Part
    """What says whether a fact is true of the pictures."""
    facts: Part | None = None
    """The judge that finds what a segment claims; `judge` by default."""
    sampling: dict[str, Any] = Field(default={})
    """How the model samples: the options of its process."""
    collect: Collecting = Field(default=Collecting())
    """How much is judged."""
    folder: str = "runs"
    """Where run folders are made."""


def is_collection(data: dict[str, Any]) -> bool:
    """Whether a document, or what a stage adds to one, collects feedback."""
    return "judge" in data and "objective" not in data
