"""Log-probabilities of tokens, and divergences of what they could have been, without the logits of a whole batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256
"""Tokens whose logits exist at once; 256 of a vocabulary of 150,000 are 150 MB in float32."""

Head = Callable[[Tensor], Tensor]
"""Hidden states `[N, H]` to logits `[N, V]`."""


def token_log_probs(hidden: Tensor, ids: Tensor, head: Head, temperature: float = 1.0, chunk: int = CHUNK) -> Tensor:
    """`[N]`: log softmax(head(hidden) / temperature) at `ids`, float32 or wider.

    hidden: `[N, H]`. ids: `[N]`. Logits are made for `chunk` tokens at a time, and again in the backward pass.
    """

    def some(states: Tensor, targets: Tensor) -> Tensor:
        logits = _wide(head(states)) / temperature
        return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)

    return _in_pieces(some, hidden, ids, chunk)


def token_divergence(hidden: Tensor, reference: Tensor, head: Head, reference_head: Head, chunk: int = CHUNK) -> Tensor:
    """`[N]`: KL(r ‖ p) over the vocabulary, exact, float32 or wider.

    p = softmax(head(hidden)), r = softmax(reference_head(reference)); both hidden states are `[N, H]`. Logits are made for
    `chunk` tokens at a time, and again in the backward pass.
    """

    def some(states: Tensor, untouched: Tensor) -> Tensor:
        log_p, log_r = _wide(head(states)).log_softmax(-1), _wide(reference_head(untouched)).log_softmax(-1)
        return (log_r.exp() * (log_r - log_p)).sum(-1)

    return _in_pieces(some, hidden, reference, chunk)


@torch.no_grad()
def likeliest_tokens(hidden: Tensor, head: Head, chunk: int = CHUNK) -> Tensor:
    """`[N]`: the likeliest id after each hidden state of `[N, H]`. Logits are made for `chunk` tokens at a time."""
    return torch.cat([head(hidden[i : i + chunk]).argmax(-1) for i in range(0, max(len(hidden), 1), chunk)])


def _in_pieces(function: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor, chunk: int) -> Tensor:
    """`function` of `chunk` rows at a time; what it makes on the way is dropped until the backward pass."""
    pieces = [(one[i : i + chunk], other[i : i + chunk]) for i in range(0, max(len(one), 1), chunk)]
    if not torch.is_grad_enabled():
        return torch.cat([function(*piece) for piece in pieces])
    return torch.cat([checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
