"""What mmalign-shapes adds to mmalign: prompts, the oracle as a reward, and the command that trains its checkpoints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmalign import DataSpec, RewardSpec, hookimpl

if TYPE_CHECKING:
    import typer

MMALIGN_API = ">=1,<2"


@hookimpl
def mmalign_rewards() -> Iterator[RewardSpec]:
    """The oracle."""
    yield RewardSpec("oracle", "mmalign_shapes.rewards:OracleReward")


@hookimpl
def mmalign_datasets() -> Iterator[DataSpec]:
    """Prompts about two things."""
    yield DataSpec("shapes-prompts", "mmalign_shapes.prompts:ShapesPrompts")


@hookimpl
def mmalign_commands(app: "typer.Typer") -> None:
    """`mmalign shapes ...`."""
    from mmalign_shapes.commands import app as shapes

    app.add_typer(shapes, name="shapes")
