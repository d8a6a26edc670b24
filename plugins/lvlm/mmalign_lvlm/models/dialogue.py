"""Prompts and answers as rows of token ids: chat template, placeholders of pictures, padding, truncation."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmalign.errors import UserError
from mmalign.processes.tokens import Encoded, Ids
from mmalign.records import Prompt, Turn
from mmalign_lvlm import pictures
from mmalign_lvlm.models import rows

_SHOWN = 60


def writes_prompts(processor: Any) -> bool:
    """Whether a processor writes prompts without a chat template and takes their answers as `suffix`, as PaliGemma's does."""
    return callable(processor) and "suffix" in inspect.signature(processor).parameters


@dataclass(frozen=True)
class Told:
    """A prompt, cut where it was too long, and what the processor makes of it."""

    prompt: Prompt
    row: rows.Row

    @property
    def length(self) -> int:
        """How many tokens it takes."""
        return self.row["input_ids"].shape[1]


class Dialogue:
    """What a processor makes of prompts and answers, on the CPU.

    placeholder: the id that stands for one image feature. ends: ids that end an answer.
    limit: the most tokens that a row may have, or None. longest_prompt: the most that a prompt may have, or None; what was
        said first is cut off longer ones. max_pixels: of a picture or a frame, or None; larger ones are made smaller.
    """

    def __init__(
        self,
        processor: Any,
        placeholder: int,
        ends: Sequence[int],
        limit: int | None,
        longest_prompt: int | None = None,
        max_pixels: int | None = None,
    ):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.placeholder = placeholder
        self.ends = list(ends)
        self.limit = limit
        self.longest_prompt = longest_prompt
        self.max_pixels = max_pixels
        pad = self.tokenizer.pad_token_id
        self.pad: int = self.ends[0] if pad is None else pad
        self._plain = writes_prompts(processor) and not processor.chat_template
        self._videos = all(getattr(processor, name, None) for name in ("video_processor", "video_token"))

    @cached_property
    def placeholders(self) -> dict[str, int]:
        """Tokens that stand for pictures and videos, or stand around them, which nobody says; with their ids."""
        kinds = [kind for kind in ("image", "video", "audio") if getattr(self.processor, f"{kind}_token", None)]
        ids = {one for kind in kinds for one in getattr(self.processor, f"{kind}_token_ids", ()) if one is not None}
        found = {self.tokenizer.convert_ids_to_tokens(one): one for one in sorted({*ids, self.placeholder})}
        vocabulary = self.tokenizer.get_vocab() if kinds else {}
        tokens = [getattr(self.processor, f"{kind}_token") for kind in kinds]
        return {**found, **{token: vocabulary[token] for token in tokens if token in vocabulary}}

    def told(self, prompts: Sequence[Prompt], needed: int = 1) -> list[Told]:
        """Each prompt on its own, so that none changes another. The sides of a pair share one, which is made once.

        Raises UserError where a row has no room for an answer of `needed` tokens.
        """
        shown, numbers = rows.distinct(prompts)
        made = [self._fitting(prompt) for prompt in shown]
        for told in made:
            self._check_room(told, needed)
        return [made[number] for number in numbers]

    def asked(self, prompts: Sequence[Prompt], needed: int = 1) -> dict[str, Tensor]:
        """Prompts up to where the answer begins, padded on the left: ids, attention mask, pixels and what else there is."""
        return rows.joined([told.row for told in self.told(prompts, needed)], self.pad, left=True)

    def tokenize(self, prompt: Prompt, text: str) -> list[int]:
        """The ids of an answer as the template writes it, and of its end."""
        ids: list[int] = self.tokenizer(self._answered(prompt, text), add_special_tokens=False)["input_ids"]
        for token, one in self.placeholders.items():
            if one in ids:
                raise UserError(f"the answer '{text[:_SHOWN]}' holds {token}, which stands for a picture: take it out")
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
        """Prompts and answers in one row each, padded on the right. Too long an answer is cut at its end."""
        asked = self.told(prompts)
        said = self._cut(asked, responses)
        types = int(writes_prompts(self.processor))
        pairs = zip(asked, said, strict=True)
        inputs = rows.joined([rows.followed(told.row, one, types) for told, one in pairs], self.pad)
        # From lengths and not from ids, for the padding may be the very token that ends an answer.
        begins = torch.tensor([told.length for told in asked])
        ends = begins + torch.tensor([len(one) for one in said])
        places = torch.arange(inputs["input_ids"].shape[1])
        mask = (places >= begins[:, None]) & (places < ends[:, None])
        return Encoded(inputs, inputs["input_ids"], mask.long())

    def encode_once(self, prompts: Sequence[Prompt], responses: Sequence[Ids]) -> Encoded:
        """As `encode`, but with each prompt once, padded on the left, for `prefix.hidden`, and of it only the last token in each
        row of `ids`.
        """
        shown, numbers = rows.distinct(prompts)
        told, which = self.told(shown), torch.tensor(numbers)
        asked = rows.joined([one.row for one in told], self.pad, left=True)
        said = self._cut([told[number] for number in numbers], responses)
        answers = pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in said], True, self.pad)
        answered = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in said], True)
        last = asked["input_ids"][which, -1:]
        ids, mask = torch.cat([last, answers], 1), torch.cat([torch.zeros_like(last), answered], 1)
        return Encoded({**asked, "rows": which, "answers": answers, "answered": answered}, ids, mask)

    def until_end(self, ids: list[int]) -> list[int]:
        """What was said up to the first end, that included."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[: stop + 1]

    def decode(self, responses: Sequence[Ids]) -> list[str]:
        """The texts of answers. A placeholder that was spelled with other tokens gets a gap, so that it can be read again."""
        texts = [self.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in responses]
        for token in self.placeholders:
            texts = [text.replace(token, f"{token[:1]} {token[1:]}") for text in texts]
        return texts

    def unexpanded(self, prompt: Prompt) -> tuple[list[int], dict[str, Any]]:
        """What the processor is given: ids with one placeholder a picture, and pictures and videos as its arguments."""
        text = self._rendered(prompt)
        ids: list[int] = self.tokenizer(text, add_special_tokens=self._begins(text))["input_ids"]
        return ids, self._media(prompt)

    # ---- inside

    def _fitting(self, prompt: Prompt) -> Told:
        """A prompt as it is told. Too long a one loses the words that were said first, never a token of the template."""
        fitting = Told(prompt, self._row(prompt))
        if self.longest_prompt is None:
            return fitting
        needed, turns = fitting.length, list(prompt.turns)
        while (over := fitting.length - self.longest_prompt) > 0:
            first = next((i for i, turn in enumerate(turns) if turn.text), None)
            if first is None:
                shown = int((fitting.row["input_ids"] == self.placeholder).sum())
                raise UserError(
                    f"prompt '{prompt.text[:_SHOWN]}' takes {needed} tokens, {shown} of them for pictures, which are "
                    f"never cut, and {fitting.length} without a word, but model.max_prompt_length is "
                    f"{self.longest_prompt}: set it to more than that"
                )
            turns[first] = replace(turns[first], text=self._without(turns[first].text, over))
            cut = replace(prompt, text=turns[-1].text, history=turns[:-1])
            fitting = Told(cut, self._row(cut))
        return fitting

    def _cut(self, asked: Sequence[Told], responses: Sequence[Ids]) -> list[Ids]:
        """Answers, as much of each as its row has room for."""
        rooms = [None if self.limit is None else self.limit - told.length for told in asked]
        return [response[:room] for room, response in zip(rooms, responses, strict=True)]

    def _check_room(self, told: Told, needed: int) -> None:
        if self.limit is not None and told.length + needed > self.limit:
            shown = int((told.row["input_ids"] == self.placeholder).sum())
            raise UserError(
                f"prompt '{told.prompt.text[:_SHOWN]}' takes {told.length} tokens, {shown} of them for pictures, and its "
                f"answer needs {needed} more, but a row holds {self.limit}: set model.max_length to at least "
                f"{told.length + needed} if the model can, lower sampling.max_new_tokens, or leave the row out"
            )

    def _without(self, text: str, count: int) -> str:
        """A text less its first `count` tokens, or less all."""
        rest: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"][count:]
        # What begins with half a letter is decoded with the sign for that.
        kept: str = self.tokenizer.decode(rest).lstrip("\N{REPLACEMENT CHARACTER}")
        return kept if len(kept) < len(text) else ""

    def _row(self, prompt: Prompt) -> rows.Row:
        """What the processor makes of one prompt."""
        text = self._rendered(prompt)
        try:
            batch = self.processor(
                text=[text],
                add_special_tokens=self._begins(text),
                return_tensors="pt",
                **self._media(prompt),
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"prompt '{prompt.text[:_SHOWN]}' with {len(prompt.images)} pictures and {len(prompt.videos)} videos is "
                f"nothing that this model's processor takes ({str(error).strip()}): change its row or leave it out"
            ) from None
        # No answer is part of it, so that there is nothing to label.
        return {name: value for name, value in batch.items() if name != "labels"}

    def _begins(self, text: str) -> bool:
        """Whether the tokenizer is to begin a text: some templates write the token that does, others leave it to it."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _media(self, prompt: Prompt) -> dict[str, Any]:
        """Pictures and videos as arguments of a processor; frames are pictures to one that has no videos."""
        images = [pictures.within(pictures.read(one), self.max_pixels) for one in prompt.images]
        videos = [[pictures.within(frame, self.max_pixels) for frame in pictures.frames(one)] for one in prompt.videos]
        if not self._videos:
            images, videos = [*images, *(frame for video in videos for frame in video)], []
        shown: dict[str, Any] = {"images": [images]} if images else {}
        if videos:
            # All frames that were given are used; they are as far apart as the model's own sampling leaves them.
            rate = getattr(self.processor.video_processor, "fps", None) or 1
            times = [
                {"fps": rate, "total_num_frames": len(one), "frames_indices": list(range(len(one)))} for one in videos
            ]
            shown["videos"] = [np.stack([np.asarray(frame) for frame in video]) for video in videos]
            shown["videos_kwargs"] = {"do_sample_frames": False, "video_metadata": times}
        return shown

    def _answered(self, prompt: Prompt, text: str) -> str:
        """An answer as the template writes it, with its end if it writes one."""
        if self._plain:
            return text
        asked, whole = self._rendered(prompt), self._rendered(prompt, text)
        return whole.removeprefix(asked).rstrip() if whole.startswith(asked) else text

    def _rendered(self, prompt: Prompt, answer: str | None = None) -> str:
        """The chat template's text; without an answer it ends where the answer begins."""
        turns = list(prompt.turns)
        for token in self.placeholders:
            if any(token in turn.text for turn in turns):
                raise UserError(
                    f"prompt '{prompt.text[:_SHOWN]}' holds {token}, which stands for a picture: take it out of the "
                    "text; pictures go to the column `images` and are shown before the first thing said"
                )
        frames = 0 if self._videos else sum(len(video) for video in prompt.videos)
        shown = ["image"] * (len(prompt.images) + frames) + ["video"] * (len(prompt.videos) if self._videos else 0)
        if self._plain:
            return self._unwritten(prompt, len(shown))
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        messages = [_message(turn, shown if i == first else ()) for i, turn in enumerate(turns)]
        messages += [] if answer is None else [_message(Turn("assistant", answer), ())]
        text: str = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        return text

    def _unwritten(self, prompt: Prompt, shown: int) -> str:
        """A prompt for a processor that writes the rest itself."""
        if prompt.history or not shown:
            what = "takes one question and nothing said before it" if prompt.history else "answers only about pictures"
            raise UserError(f"prompt '{prompt.text[:_SHOWN]}': this model {what}: change its row or leave it out")
        text: str = self.processor.image_token * shown + prompt.text
        return text


def _message(turn: Turn, shown: Sequence[str]) -> dict[str, Any]:
    return {"role": turn.role, "content": [*({"type": kind} for kind in shown), {"type": "text", "text": turn.text}]}
