"""Prompts that several answers follow, read once: the samples of a group, the sides of a pair, the best of n.

A picture is hundreds of tokens and an answer some tens, so that most of what such a batch costs is its prompts.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mmalign_lvlm.models.rows import Row

_GRIDS = frozenset({"image_grid_thw", "video_grid_thw"})


def can_be_shared(base: Any, names: Iterable[str]) -> bool:
    """Whether answers can go on from one reading of their prompt. names: what the processor makes of it.

    They cannot where the prompt is read both ways, as by PaliGemma, nor where layers keep less than all they have read.
    """
    layers = DynamicCache(config=base.config.get_text_config()).layers
    return "token_type_ids" not in names and all(type(layer) is DynamicLayer for layer in layers)


def read(base: Any, prompts: Row) -> tuple[Tensor, DynamicCache, Tensor]:
    """Hidden states `[U, P, H]` of prompts, padded on the left; their keys and values; and by how much positions after them
    differ from the number of tokens before `[U, 1]`.
    """
    cache = DynamicCache(config=base.config.get_text_config())
    # The Qwen family counts a picture's rows and columns, not its tokens, and remembers what that makes.
    turned = not _GRIDS.isdisjoint(prompts) and hasattr(base.model, "rope_deltas")
    places = {} if turned else {"position_ids": positions(prompts["attention_mask"])}
    states: Tensor = base.model(**prompts, **places, past_key_values=cache, use_cache=True).last_hidden_state
    shifts = base.model.rope_deltas if turned else torch.zeros_like(prompts["attention_mask"][:, :1])
    return states, cache, shifts


def hidden(base: Any, rows: Tensor, answers: Tensor, answered: Tensor, **prompts: Tensor) -> Tensor:
    """Last hidden states `[B, 1 + A, H]` of each answer and of the token before it.

    rows: `[B]`, which prompt an answer follows. answers: `[B, A]` ids, padded on the right. answered: 1 where one stands.
    """
    states, cache, shifts = read(base, prompts)
    cache.batch_select_indices(rows)
    seen = torch.cat([prompts["attention_mask"][rows], answered], 1)
    places = positions(seen)[:, -answers.shape[1] :] + shifts[rows]
    said = base.model(
        input_ids=answers, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True
    )
    return torch.cat([states[rows, -1:], said.last_hidden_state], 1)


def positions(seen: Tensor) -> Tensor:
    """Where tokens stand, without the padding: `[B, T]` of an attention mask."""
    return (seen.cumsum(1) - 1).clamp_min(0)
