"""A causal network of a few letters in float64 that has everything a language model's adapter gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmalign.processes.tokens import Encoded, Sampling, TokensPolicy

LETTERS = "$abcdefg"
END = 0


class Net(nn.Module):
    """Hidden states from the running mean of embeddings; an adapter that can be switched off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(len(LETTERS), 6).double().requires_grad_(False)
        self.base = nn.Linear(6, 5).double().requires_grad_(False)
        self.adapter = nn.Linear(6, 5).double()
        self.head = nn.Linear(5, len(LETTERS)).double().requires_grad_(False)
        self.on = True

    def forward(self, ids: Tensor) -> Tensor:
        seen = self.embed(ids)
        mean = seen.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        x = mean + seen
        return (self.base(x) * 2).tanh() + (self.adapter(x).sin() if self.on else 0)


class ToyTokens:
    """The adapter."""

    device = torch.device("cpu")
    hidden_size = 5

    def __init__(self) -> None:
        self.network: nn.Module = Net()
        self.recomputes = False
        self.largest = 0

    def tokenize(self, prompts, texts):
        return [[LETTERS.index(letter) for letter in text] + [END] for text in texts]

    def encode(self, prompts, responses):
        rows = [[LETTERS.index(letter) for letter in prompt.text] for prompt in prompts]
        width = max(len(a) + len(b) for a, b in zip(rows, responses, strict=True))
        ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        for i, (row, response) in enumerate(zip(rows, responses, strict=True)):
            ids[i, : len(row) + len(response)] = torch.tensor([*row, *response])
            mask[i, len(row) : len(row) + len(response)] = 1
        return Encoded({"ids": ids}, ids, mask)

    def hidden(self, inputs):
        return self.network(inputs["ids"])

    def head(self, hidden):
        self.largest = max(self.largest, len(hidden))
        return self.network.head(hidden)

    def generate(self, prompts, choose, max_new_tokens):
        said: list[list[int]] = [[] for _ in prompts]
        for step in range(max_new_tokens):
            encoded = self.encode(prompts, said)
            last = [len(p.text) + len(s) - 1 for p, s in zip(prompts, said, strict=True)]
            hidden = self.hidden(encoded.inputs)[torch.arange(len(said)), torch.tensor(last)]
            for response, token in zip(said, choose(self.network.head(hidden), step).tolist(), strict=True):
                response.append(token)
        return [s[: s.index(END) + 1] if END in s else s for s in said]

    def decode(self, responses):
        return ["".join(LETTERS[i] for i in response if i != END) for response in responses]

    def recompute_layers(self):
        self.recomputes = True

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


def policy(**sampling: object) -> TokensPolicy:
    """A policy around a fresh toy."""
    return TokensPolicy(ToyTokens(), Sampling(**{"max_new_tokens": 6, **sampling}))
