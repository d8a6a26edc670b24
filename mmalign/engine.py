"""Devices, precision, processes and the optimiser. The only file that imports accelerate."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from mmalign.config import Trainer
from mmalign.errors import UserError

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


T = TypeVar("T")


def agreed(decide: Callable[[], T]) -> T:
    """What the main process decides or does, awaited and known by every process."""
    found: T = broadcast_object_list([decide() if PartialState().is_main_process else None])[0]
    return found


def device() -> torch.device:
    """Where this process computes, where nothing is trained."""
    found: torch.device = PartialState().device
    return found


class Engine:
    """One update: backward, clip, step, over as many processes as accelerate was launched with."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        AcceleratorState._reset_state()  # another stage of this process may have had another precision
        self.accelerator = Accelerator(mixed_precision=trainer.precision)
        kind = self.accelerator.distributed_type.value
        if kind in _SHARDED:
            raise UserError(
                f"accelerate was configured for {kind}; checkpoints of sharded weights are not written yet: use MULTI_GPU"
            )

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """This process among `world`."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """How many processes share the run."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.accelerator.is_main_process

    def prepare(self, policy: Any) -> None:
        """Wrap the policy's network and make the optimiser for what trains in it."""
        parameters = [p for p in policy.network.parameters() if p.requires_grad]
        if not parameters:
            raise UserError("nothing trains: the model has no parameter with gradient; give it an adapter")
        self.parameters = parameters
        # The optimiser itself: accelerate's wrapper serves precisions and sharding that are not offered here, and its every
        # step searches all of `sys.path` for a package.
        self.optimizer = _optimizer(self.trainer, parameters)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, partial(rate, self.trainer))
        policy.network = self.accelerator.prepare(policy.network)
        self._network: nn.Module = policy.network

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: gradients are exchanged between processes only in the `last` one of an update."""
        return nullcontext() if last else self.accelerator.no_sync(self._network)

    def autocast(self) -> AbstractContextManager[Any]:
        """Around what computes the loss: the run's precision."""
        return self.accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss."""
        self.accelerator.backward(loss)

    def step(self, loss: Tensor) -> tuple[bool, dict[str, float]]:
        """Clip, then update the weights; drop the update when loss or gradient is not finite.

        Returns whether the weights moved, and the update's own metrics. All processes decide alike.
        """
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.trainer.max_grad_norm)
        metrics = self.mean({"loss": loss.detach(), "grad_norm": torch.as_tensor(grad_norm)})
        finite = all(map(math.isfinite, metrics.values()))
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        learning_rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        return finite, {**metrics, "learning_rate": learning_rate}

    def mean(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Each scalar averaged over processes, in one exchange."""
        if not metrics:
            return {}
        stacked = torch.stack([value.detach().double().to(self.device) for value in metrics.values()])
        reduced: Tensor = self.accelerator.reduce(stacked, reduction="mean")
        return dict(zip(metrics, reduced.tolist(), strict=True))

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on every process."""
        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def unwrap(self, network: nn.Module) -> nn.Module:
        """The network as the plugin made it."""
        module: nn.Module = self.accelerator.unwrap_model(network)
        return module

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and learning-rate schedule."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def rate(trainer: Trainer, step: int) -> float:
    """The share of the peak learning rate at the update after `step` others: never 0, up in a line, then as scheduled."""
    if step < trainer.warmup_steps:
        return (step + 1) / (trainer.warmup_steps + 1)
    left = (trainer.steps - step) / max(1, trainer.steps - trainer.warmup_steps)
    return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[trainer.schedule]


def _optimizer(trainer: Trainer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if trainer.optimizer == "adafactor":
        # torch scales each step by the weights' size, max(eps, RMS); at 1 a step is as long as the learning rate says, also for
        # matrices of LoRA that begin at 0.
        decay, eps = trainer.weight_decay, (None, 1.0)
        return torch.optim.Adafactor(parameters, lr=trainer.learning_rate, weight_decay=decay, eps=eps)
    betas = (trainer.betas[0], trainer.betas[1])
    return torch.optim.AdamW(parameters, lr=trainer.learning_rate, betas=betas, weight_decay=trainer.weight_decay)
