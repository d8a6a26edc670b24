"""Answers that transformers generates, each token of them chosen by the caller."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from mmalign.processes.tokens import Choose
from mmalign_lvlm.models import prefix


def generated(
    base: Any,
    asked: Mapping[str, Any],
    choose: Choose,
    most: int,
    ends: Sequence[int],
    pad: int,
    never: Sequence[int],
) -> list[list[int]]:
    """What is said to each prompt; after an end only padding.

    asked: prompts, padded on the left, or what `read_once` makes of them. most: tokens after which an answer is cut. never: ids
        that are not said.
    """
    start = asked["input_ids"].shape[1]
    # Neutral wherever the model's own generation config could say more: `choose` alone decides.
    plain = GenerationConfig(
        max_new_tokens=most,
        use_cache=True,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        eos_token_id=list(ends),
        pad_token_id=pad,
    )
    picker = LogitsProcessorList([_Picker(choose, start, torch.tensor(never, dtype=torch.long, device=base.device))])
    whole: Tensor = base.generate(**asked, generation_config=plain, logits_processor=picker)
    said: list[list[int]] = whole[:, start:].tolist()
    return said


def read_once(base: Any, prompts: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Any]:
    """Prompts, each read once, as `generated` takes them: answer number i goes on from prompt number `rows[i]`."""
    places = torch.tensor(rows, device=base.device)
    _, cache, shifts = prefix.read(base, prompts)
    cache.crop(-1)  # each answer reads the last token itself, for what follows it
    cache.batch_select_indices(places)
    if hasattr(base.model, "rope_deltas"):
        base.model.rope_deltas = shifts[places]
    kept = {name: prompts[name][places] for name in ("input_ids", "attention_mask")}
    return {**kept, "past_key_values": cache}


class _Picker:
    """Makes `generate`, which takes the likeliest token, take the one that `choose` says."""

    def __init__(self, choose: Choose, start: int, never: Tensor):
        self.choose = choose
        self.start = start
        self.never = never

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: `[B, V]`. input_ids: the prompt and what was said."""
        chosen = self.choose(scores.index_fill(1, self.never, -torch.inf), input_ids.shape[1] - self.start)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)
