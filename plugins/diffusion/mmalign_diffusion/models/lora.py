"""The options of a low-rank adapter."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside linear layers (arXiv:2106.09685): `W x + alpha / rank * B A x`.

    rank: inner dimension of the matrices.
    alpha: scale; None is `rank`.
    target_modules: names (or their ends) of the layers that get them.
    dropout: share of the layer's input that the matrices do not see in training.
    """

    rank: PositiveInt = 8
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
