"""Answers that transformers generates, each token of them chosen by the caller."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from mmalign.processes.tokens import Choose


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
    plain = _plain(max_new_tokens=most, eos_token_id=list(ends), pad_token_id=pad)
    picker = LogitsProcessorList([_Picker(choose, start, torch.tensor(never, dtype=torch.long, device=base.device))])
    whole: Tensor = base.generate(**asked, generation_config=plain, logits_processor=picker)
    said: list[list[int]] = whole[:, start:].tolist()
    return said


def can_be_read_once(base: Any, asked: Mapping[str, Tensor]) -> bool:
    """Whether answers to one prompt can go on from one reading of it.

    They cannot where its last token, which is read again, is also seen from before it, as PaliGemma's is; nor where layers keep
    less than all they have read.
    """
    layers = DynamicCache(config=base.config.get_text_config()).layers
    return "token_type_ids" not in asked and all(type(layer) is DynamicLayer for layer in layers)


def read_once(base: Any, asked: Mapping[str, Tensor], rows: Sequence[int], pad: int) -> dict[str, Any]:
    """Prompts, each read once, as `generated` takes them: the answer number i goes on from prompt number `rows[i]`."""
    once = base.generate(**asked, generation_config=_plain(max_new_tokens=1, pad_token_id=pad, return_dict_in_generate=True))
    cache, places = once.past_key_values, torch.tensor(rows, device=base.device)
    cache.crop(-1)  # the last token is read by each answer, for what follows it
    cache.batch_select_indices(places)
    if getattr(base.model, "rope_deltas", None) is not None:
        # By how much positions are fewer than tokens, which the Qwen family remembers from the last prompts.
        base.model.rope_deltas = base.model.rope_deltas[places]
    kept = {name: asked[name][places] for name in ("input_ids", "attention_mask")}
    return {**kept, "past_key_values": cache}


def _plain(**options: Any) -> GenerationConfig:
    """Neutral wherever the model's own generation config could say more: `choose` alone decides."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        **options,
    )


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
