"""A two-layer denoiser in float64 that has everything an adapter gives, for arithmetic on the process and the samplers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmalign.maths.paths import VP, Flow, Path
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.processes.encodings import Posterior
from mmalign.records import Prompt, Samples, Scores
from mmalign.specs import Objective

CHANNELS = 2
SHAPE = (CHANNELS, 3, 3)


def alphas(size: int = 1000) -> Tensor:
    """Stable Diffusion's table."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, size, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def paths() -> dict[str, Path]:
    """One of each parametrisation."""
    return {
        "epsilon": VP(alphas(), "epsilon"),
        "v": VP(alphas(), "v"),
        "x0": VP(alphas(), "x0"),
        "flow": Flow(lambda steps: torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]),
    }


class Net(nn.Module):
    """Base weights and an adapter that can be switched off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Conv2d(CHANNELS + 2, CHANNELS, 1).double().requires_grad_(False)
        self.adapter = nn.Conv2d(CHANNELS + 2, CHANNELS, 1).double()
        self.on = True
        self.inputs: list[Tensor] = []
        self.grad_modes: list[bool] = []

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        self.inputs.append(x)
        self.grad_modes.append(torch.is_grad_enabled())
        extra = torch.stack([t.double() / 1000, c[:, 0]], dim=1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        both = torch.cat([x, extra], dim=1)
        return self.base(both) + (0.1 * self.adapter(both).tanh() if self.on else 0)


class ToyModel:
    """The adapter."""

    latent_shape = SHAPE
    device = torch.device("cpu")
    encoders: ClassVar = {"texts": [], "media": []}
    preprocessing: ClassVar = {"size": 3}
    frame_rate = None

    def __init__(self, path: Path):
        self.path = path
        self.network: nn.Module = Net()

    def condition(self, texts):
        return {"c": torch.tensor([[float(len(text))] for text in texts], dtype=torch.float64) / 10}

    def unconditional(self, n):
        return self.condition([""] * n)

    def predict(self, x, t, condition):
        return self.network(x.double(), t, condition["c"])

    def pixels(self, media):
        return torch.stack(list(media)).double()

    def encode(self, pixels):
        return Posterior(pixels[:, :CHANNELS] * 2 - 1)

    def decode(self, latents):
        return torch.cat([latents, latents.mean(dim=1, keepdim=True)], dim=1).sigmoid()

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.network.on = False
        try:
            yield
        finally:
            self.network.on = True

    def state_dict(self):
        return self.network.adapter.state_dict()

    def load_state_dict(self, state):
        self.network.adapter.load_state_dict(state)

    def save(self, folder):
        torch.save(self.state_dict(), folder / "toy.pt")


def reward(samples: Samples) -> Scores:
    """A smooth function of the pixels."""
    return Scores((samples.media**2).mean(dim=(1, 2, 3)) + samples.media[:, 0].mean(dim=(1, 2)))


def parts(kind: str = "epsilon", steps: int = 6, guidance_scale: float = 2.0, checkpointing: bool = False) -> Parts:
    """A run's parts around the toy."""
    policy = DenoisingPolicy(ToyModel(paths()[kind]), Sampling(steps, guidance_scale), checkpointing)
    return Parts(policy, Objective(len, len), [], reward)


def prompts(n: int) -> list[Prompt]:
    """Prompts of different lengths."""
    return [Prompt("x" * (i + 1)) for i in range(n)]


def pairs(n: int, seed: int = 0) -> dict[str, list]:
    """A batch of preference pairs."""
    torch.manual_seed(seed)
    sides = [[torch.rand(3, 3, 3, dtype=torch.float64) for _ in range(n)] for _ in range(2)]
    return {"prompt": prompts(n), "chosen": sides[0], "rejected": sides[1]}


def rng(seed: int = 0) -> torch.Generator:
    """A fresh stream."""
    return torch.Generator().manual_seed(seed)


def gradient(parts: Parts, value: Tensor) -> Tensor:
    """The gradient of a scalar to the adapter, flat."""
    grads = torch.autograd.grad(value, list(parts.policy.network.adapter.parameters()))
    return torch.cat([grad.flatten() for grad in grads])
