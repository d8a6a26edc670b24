"""Choose the next token of each sample, from random numbers of its own."""

import torch
from torch import Tensor


def choose(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """`[B]` token ids: where `uniform` falls in the cumulated probabilities of the tokens that are left.

    logits: `[B, V]`; -inf is never chosen. uniform: `[B]` in [0, 1). temperature: 0 takes the likeliest token.
    top_p: the fewest likeliest tokens that hold this mass are left (nucleus, arXiv:1904.09751).
    top_k: no more than this many are left; 0 leaves all.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / temperature).softmax(-1)
    if top_p < 1 or top_k > 0:
        probs = probs * _left(probs, top_p, top_k)
    edges = probs.cumsum(-1)
    total = edges[:, -1]
    # Rounding must not carry the point past the last token that has any mass.
    point = torch.minimum(uniform.to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(edges, point[:, None], right=True)[:, 0]


def _left(probs: Tensor, top_p: float, top_k: int) -> Tensor:
    """`[B, V]`: which tokens may still be chosen. The likeliest always may."""
    likeliest = probs.sort(descending=True, stable=True)
    keep = likeliest.values.cumsum(-1) - likeliest.values < top_p
    if top_k > 0:
        keep[:, top_k:] = False
    return torch.zeros_like(keep).scatter(-1, likeliest.indices, keep)
