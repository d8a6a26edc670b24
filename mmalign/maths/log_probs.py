"""Log-probabilities of tokens without the logits of a whole batch."""

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
        logits = head(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)

    pieces = [(hidden[i : i + chunk], ids[i : i + chunk]) for i in range(0, max(len(ids), 1), chunk)]
    if not torch.is_grad_enabled():
        return torch.cat([some(*piece) for piece in pieces])
    return torch.cat([checkpoint(some, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])
