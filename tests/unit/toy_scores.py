"""Features of letters in float64 that have everything a scoring model's adapter gives."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.parts import Parts
from mmalign.processes.scoring import Encoded, Heads, ScoringPolicy

WIDTH = 5


class Net(nn.Module):
    """Running means of embeddings of letters, so that each place sees what stands before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(128, WIDTH).double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]


class ToyScores:
    """The adapter. A letter is a token, and what is asked comes first."""

    device = torch.device("cpu")
    width = WIDTH

    def __init__(self, heads: Heads):
        self.network: nn.Module = Net()
        self.heads = heads
        self.recomputes = False

    def encode(self, prompts, media, ends):
        rows = [[ord(letter) for letter in prompt.text + said] for prompt, said in zip(prompts, media, strict=True)]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        places = torch.full((len(rows), 1 + max(map(len, ends))), -1)
        for i, (row, own) in enumerate(zip(rows, ends, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            places[i, : 1 + len(own)] = torch.tensor([len(row) - 1, *(len(prompts[i].text) + end - 1 for end in own)])
        return Encoded({"ids": ids}, places)

    def recompute_layers(self):
        self.recomputes = True

    def reference(self):
        return nullcontext()

    def to(self, device):
        return self

    def state_dict(self):
        return {"embed": self.network.embed.weight.detach()}

    def load_state_dict(self, state):
        if state.keys() != {"embed"}:
            raise UserError("another model")
        self.network.embed.weight.data.copy_(state["embed"])

    def save(self, folder):
        torch.save(self.state_dict(), folder / "toy.pt")

    def load(self, folder):
        self.load_state_dict(torch.load(folder / "toy.pt"))


def policy(
    *names: str, classes: tuple[str, ...] = (), annotators: tuple[str, ...] = (), **options: object
) -> ScoringPolicy:
    """A policy around a fresh toy, its heads in float64."""
    heads = Heads(names or ("score",), classes, annotators)
    made = ScoringPolicy(ToyScores(heads), ScoringPolicy.Sampling(), **options)
    made.headed.double()
    return made


def parts(*names: str, objective: object = None, held_out: object = None, **options: object) -> Parts:
    """A run's parts around the toy."""
    return Parts(policy(*names, **options), objective, [], held_out=held_out)
