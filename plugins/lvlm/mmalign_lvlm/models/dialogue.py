"""Prompts and answers as rows of token ids: chat template, placeholders of pictures, padding, truncation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmalign.errors import UserError
from mmalign.processes.tokens import Encoded, Ids
from mmalign.records import Prompt, Turn
from mmalign_lvlm import pictures

_SHOWN = 60


class Dialogue:
    """What a processor makes of prompts and answers, on the CPU.

    placeholder: the id that stands for one image feature. ends: ids that end an answer.
    limit: the most tokens that a row may have, or None.
    """

    def __init__(self, processor: Any, placeholder: int, ends: Sequence[int], limit: int | None):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder = placeholder
        self.ends = list(ends)
        self.limit = limit
        pad = self.tokenizer.pad_token_id
        self.pad: int = self.ends[0] if pad is None else pad

    def asked(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Prompts up to where the answer begins, padded on the left: ids, attention mask, pixels and what else there is."""
        texts = [self._rendered(prompt) for prompt in prompts]
        images = [pictures.read(image) for prompt in prompts for image in prompt.images]
        bos = self.tokenizer.bos_token
        batch = self.processor(
            text=texts,
            images=images or None,
            padding=True,
            padding_side="left",
            # Some templates write the token that begins a text, others leave it to the tokenizer.
            add_special_tokens=not (bos and texts and texts[0].startswith(bos)),
            return_tensors="pt",
        )
        return dict(batch)

    def tokenize(self, prompt: Prompt, text: str) -> list[int]:
        """The ids of an answer as the template writes it, and of its end."""
        ids: list[int] = self.tokenizer(self._answered(prompt, text), add_special_tokens=False)["input_ids"]
        if self.placeholder in ids:
            raise UserError(
                f"the answer '{text[:_SHOWN]}' holds {self._token}, which stands for a picture: take it out"
            )
        return ids if ids and ids[-1] in self.ends else [*ids, self.ends[0]]

    def tokens_at(self, prompt: Prompt, text: str, ends: Sequence[int]) -> list[int]:
        """For each end of a segment, counted in characters of the answer, the token of it in which the segment ends.

        What the template writes around an answer is looked for, so that offsets are those of the ids that `tokenize` gives.
        """
        if not ends:
            return []
        if not self.tokenizer.is_fast:
            raise UserError(
                "this model's tokenizer does not tell where tokens stand in a text: it needs a tokenizer.json"
            )
        said, own = self._answered(prompt, text), text.strip()
        moved = said.find(own) - text.find(own)
        if not own or own not in said:
            raise UserError(f"the chat template changes the answer '{text[:_SHOWN]}', so its segments cannot be found")
        offsets = self.tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        begun = [start for start, _ in offsets]
        # The last token that begins before the segment ends: one character may be several tokens.
        return [max(i for i, start in enumerate(begun) if i == 0 or start < end + moved) for end in ends]

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[Ids]) -> Encoded:
        """Prompts and answers in one row each, padded on the right. Too long an answer is cut, a prompt never is."""
        batch = self.asked(prompts)
        kept = batch["attention_mask"].bool()
        told = kept.sum(dim=1).tolist()
        said = [
            torch.tensor(list(response[: self.room(prompt, ids, length)]), dtype=torch.long)
            for prompt, ids, length, response in zip(prompts, batch["input_ids"], told, responses, strict=True)
        ]
        tails: Mapping[str, list[Tensor]] = {
            "input_ids": said,
            "attention_mask": [torch.ones_like(one) for one in said],
        }
        nothing = [torch.zeros_like(one) for one in said]
        inputs = {
            name: _rows(value, kept, tails.get(name, nothing), self.pad if name == "input_ids" else 0)
            if value.shape == kept.shape
            else value
            for name, value in batch.items()
        }
        width = inputs["input_ids"].shape[1]
        # From lengths and not from ids, for the padding may be the very token that ends an answer.
        ends = torch.tensor([length + len(one) for length, one in zip(told, said, strict=True)])
        places = torch.arange(width)
        mask = (places >= torch.tensor(told)[:, None]) & (places < ends[:, None])
        return Encoded(inputs, inputs["input_ids"], mask.long())

    def room(self, prompt: Prompt, ids: Tensor, length: int, needed: int = 1) -> int | None:
        """How many tokens an answer to a prompt of `length` tokens may have; None is any number.

        Raises UserError when there is no room for `needed`.
        """
        if self.limit is None:
            return None
        if length + needed > self.limit:
            shown = int((ids == self.placeholder).sum())
            raise UserError(
                f"prompt '{prompt.text[:_SHOWN]}' takes {length} tokens, {shown} of them for pictures, and its answer "
                f"needs {needed} more, but a row holds {self.limit}: set model.max_length to at least "
                f"{length + needed} if the model can, lower sampling.max_new_tokens, or leave the row out"
            )
        return self.limit - length

    def until_end(self, ids: list[int]) -> list[int]:
        """What was said up to the first end, that included."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: stop + 1]

    def decode(self, responses: Sequence[Ids]) -> list[str]:
        """The texts of answers."""
        texts = (self.tokenizer.decode(list(ids), skip_special_tokens=True) for ids in responses)
        return [text.strip() for text in texts]

    @property
    def _token(self) -> str:
        token: str = self.tokenizer.convert_ids_to_tokens(self.placeholder)
        return token

    def _answered(self, prompt: Prompt, text: str) -> str:
        """An answer as the template writes it, with its end if it writes one."""
        asked, whole = self._rendered(prompt), self._rendered(prompt, text)
        return whole.removeprefix(asked).rstrip() if whole.startswith(asked) else text

    def _rendered(self, prompt: Prompt, answer: str | None = None) -> str:
        """The chat template's text; without an answer it ends where the answer begins."""
        turns = [*prompt.history, Turn("user", prompt.text)]
        if any(self._token in turn.text for turn in turns):
            raise UserError(
                f"prompt '{prompt.text[:_SHOWN]}' holds {self._token}, which stands for a picture: take it out of the "
                "text; pictures go to the column `images` and are shown before the first thing said"
            )
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        messages = [_message(turn, len(prompt.images) if i == first else 0) for i, turn in enumerate(turns)]
        messages += [] if answer is None else [_message(Turn("assistant", answer), 0)]
        text: str = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        return text


def _message(turn: Turn, images: int) -> dict[str, Any]:
    shown: list[dict[str, str]] = [{"type": "image"} for _ in range(images)]
    return {"role": turn.role, "content": [*shown, {"type": "text", "text": turn.text}]}


def _rows(values: Tensor, kept: Tensor, tails: Sequence[Tensor], pad: int) -> Tensor:
    """`[B, T]`: of each row what is kept, then its tail, padded on the right."""
    rows = [torch.cat([row[keep], tail]) for row, keep, tail in zip(values, kept, tails, strict=True)]
    return pad_sequence(rows, batch_first=True, padding_value=pad)
