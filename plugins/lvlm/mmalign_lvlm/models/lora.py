"""The options of a low-rank adapter."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside linear layers of the language model (arXiv:2106.09685): `W x + alpha / rank * B A x`.

    rank: inner dimension of the matrices.
    alpha: scale; None is `rank`.
    target_modules: names (or their ends) of the layers that get them.
    dropout: share of the layer's input that the matrices do not see in training.
    vision: layers of these names get them in the vision tower and its projector, too. Those often have names of their own,
        for example fc1, fc2, out_proj and linear_1.
    """

    rank: PositiveInt = 16
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    vision: bool = False
