"""The adapter: a vision-language model of transformers as a model that scores answers."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmalign.data.sources import PLAIN, conditioned
from mmalign.processes.scoring import Encoded, Ends, Heads
from mmalign.processes.tokens import text_of
from mmalign.records import Media, Prompt
from mmalign_lvlm.models.lora import Lora
from mmalign_lvlm.models.model import VisionLanguageModel
from mmalign_lvlm.models.rows import distinct
from mmalign_lvlm.segments import last_word

_LORA = Lora()
_HEADS = Heads()


class VisionLanguageJudge:
    """Scores answers to pictures and words: the heads read the last hidden states of a `vlm`.

    A whole answer is read at its end token, a segment where its last word ends: there a state holds the word itself, and one
    token back what was expected in its place. Behind the full stop it is two back, where small models do not learn to find it.

    path, dtype, adapter, max_length, max_pixels: as of `vlm`.
    heads: `names` of the heads; and `classes` that each tells apart in segments, or none for a value of the whole answer.
    template: what the answers are read after: `{prompt}` is the prompt's text, `{name}` what its metadata hold under that name.
        With `{caption}` in it the judge knows what is true of a picture, as in LLaVA-RLHF (Sun et al. 2023, arXiv:2309.14525).
    """

    def __init__(
        self,
        path: str,
        *,
        heads: Heads = _HEADS,
        template: str = PLAIN,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        adapter: Lora | None = _LORA,
        max_length: PositiveInt | None = None,
        max_pixels: PositiveInt | None = None,
    ):
        self.model = VisionLanguageModel(
            path, dtype=dtype, adapter=adapter, max_length=max_length, max_pixels=max_pixels
        )
        # No word is said.
        self.model.base.get_output_embeddings().requires_grad_(False)
        self.network: nn.Module = self.model.network
        self.heads = heads
        self.template = template
        self.width: int = self.model.base.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def to(self, device: torch.device | str) -> Self:
        """Move everything."""
        self.model.to(device)
        return self

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends) -> Encoded:
        """Prompts followed by answers, and the tokens where to read; -1 for a segment whose end was cut off."""
        shown, numbers = distinct(prompts)
        read = [conditioned(prompt, self.template, prompt.metadata) for prompt in shown]
        prompts = [read[number] for number in numbers]
        texts = [text_of(one) for one in media]
        rows = self.model.encode(prompts, self.model.tokenize(prompts, texts))
        first, lengths = rows.mask.argmax(dim=1).tolist(), rows.mask.sum(dim=1).tolist()
        places = []
        for prompt, text, own, start, length in zip(prompts, texts, ends, first, lengths, strict=True):
            tokens = self.model.dialogue.tokens_at(prompt, text, [last_word(text, end) for end in own])
            places.append(torch.tensor([start + length - 1, *(start + t if t < length else -1 for t in tokens)]))
        return Encoded(rows.inputs, pad_sequence(places, batch_first=True, padding_value=-1).to(self.device))

    # ---- weights

    def recompute_layers(self) -> None:
        """The language model's layers keep their input alone until the backward pass."""
        self.model.recompute_layers()

    def reference(self) -> AbstractContextManager[Any]:
        """Within it the model reads as if it was untouched."""
        return self.model.reference()

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights only, without the heads."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        self.model.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """The result as peft or transformers writes it, and the processor beside it."""
        self.model.save(folder)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        self.model.weights.load(folder)
