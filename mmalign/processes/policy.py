"""What policies of all processes share: they hand the network and its weights on to the plugin's adapter."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


class Adapter(Protocol):
    """What every plugin's adapter gives, whatever the process.

    network: what trains; the engine may put a wrapped one in its place, so what computes the loss must call this one.
    """

    network: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    def reference(self) -> AbstractContextManager[Any]:
        """Within it the model answers as if it was untouched."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights only."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Any:
        """Take them back."""
        ...

    def save(self, folder: Path) -> None:
        """Write the result in the ecosystem's own format."""
        ...


Model = TypeVar("Model", bound=Adapter)


class AdapterPolicy(Generic[Model]):
    """A policy around an adapter."""

    model: Model
    sampling: Any
    updates: int = 0
    """How many updates the weights had when the buffer of rollouts was begun that is made now, or was made last."""

    @contextmanager
    def sampled(self, sampling: Any) -> Iterator[None]:
        """Within it samples are drawn in another way."""
        usual, self.sampling = self.sampling, sampling
        try:
            yield
        finally:
            self.sampling = usual

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the policy is the untouched model, in evaluation mode."""
        with self.model.reference(), evaluating(self.network):
            yield

    @property
    def network(self) -> nn.Module:
        """The module that trains."""
        return self.model.network

    @network.setter
    def network(self, network: nn.Module) -> None:
        self.model.network = network

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take trainable weights back."""
        self.model.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """Write the result in the ecosystem's own format."""
        self.model.save(folder)


def without_dropout(network: nn.Module) -> int:
    """Have no layer drop anything, in training either. Returns how many did."""
    dropping = [layer for layer in network.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    for layer in dropping:
        layer.p = 0.0
    return len(dropping)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) within; afterwards each module is in its own mode again, for adapters may differ."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
