"""Read prompts with pictures, answers and pairs of answers, in the columns that TRL knows.

    prompt, chosen, rejected, images        preferences (text-pairs)
    prompt, completion, images              demonstrations (text-samples), or `messages` whose last one is the answer
    prompt, images                          prompts (text-prompts)

Each of prompt, chosen, rejected and completion is a text, or a conversation: a list of `{"role", "content"}`. Without a
`prompt`, what chosen and rejected begin with in common is the prompt. `image` holds one picture where `images` holds several;
`videos` holds videos, each a list of its frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmalign.data.cells import RATED, check_alike, named, narrowed, rated, scored, tied
from mmalign.data.presets import preset as preset_of
from mmalign.data.sources import PLAIN, conditioned, medium, pictures, table
from mmalign.errors import UserError
from mmalign.parts import Row
from mmalign.records import Media, Prompt, Turn

Message = Mapping[str, Any]

_READ = frozenset({"prompt", "chosen", "rejected", "completion", "messages", "images", "image"})
"""Columns that rows are read from; what the others hold is the prompt's metadata."""


class _Texts:
    """Rows of texts, read when they are asked for.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """

    layouts: Sequence[frozenset[str]] = (frozenset({"prompt"}),)
    """Sets of columns, of which a file must have one."""
    reads = _READ

    def __init__(self, path: str, split: str = "train", template: str = PLAIN):
        self._path = path
        self._template = template
        self._table = table(path, split)
        self._rows: Sequence[int] = range(len(self._table))
        self._first = self._unfolded(self._table[0]) if len(self._table) else {}
        known = set(self._first)
        if known and not any(layout <= known for layout in self.layouts):
            wanted = " or ".join(", ".join(sorted(layout)) for layout in self.layouts)
            raise UserError(f"{path}: needs the columns {wanted}; it has {', '.join(sorted(known))}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        place = self._rows[index]
        with named(f"{self._path}: row {place + 1}"):
            row = self._unfolded(self._table[place])
            read = self._read(row)
            told = {name: cell for name, cell in row.items() if name not in self.reads}
            return {**read, "prompt": conditioned(replace(read["prompt"], metadata=told), self._template, row)}

    @property
    def _folder(self) -> Path:
        return Path(self._path).parent

    def _unfolded(self, row: Message) -> Message:
        return row

    def _read(self, row: Message) -> Row:
        return text_prompt(row, self._folder)


class TextPrompts(_Texts):
    """Prompts, with the pictures that they are about: columns prompt and images.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """


class TextPairs(_Texts):
    """Preference pairs of answers: columns prompt, chosen, rejected and images, plain or conversational. Ties are left out.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    preset: the layout: "trl", or "rlhf-v" (RLHF-V and RLAIF-V).
    split: which split, for a data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """

    layouts: Sequence[frozenset[str]] = (frozenset({"chosen", "rejected"}),)

    def __init__(self, path: str, preset: str = "trl", split: str = "train", template: str = PLAIN):
        self._preset = preset_of(preset)
        if self._preset.sides is None or not self._preset.texts:
            raise UserError(f"preset '{preset}' is no layout of pairs of answers")
        self.reads = _READ.union(self._preset.columns, self._preset.kept)
        super().__init__(path, split, template)
        self._rows = self._decided()
        if len(self._table) and not self._rows:
            raise UserError(f"{path} holds no pair with a preference")

    def _decided(self) -> Sequence[int]:
        """Which rows have a better side. Reads by how much it is better alone, never the pictures."""
        told = [name for name in RATED if name in self._preset.kept and name in self._first]
        return [i for i, row in enumerate(narrowed(self._table, told)) if not tied(row)] if told else self._rows

    def _unfolded(self, row: Message) -> Message:
        return self._preset.unfold(row)

    def _read(self, row: Message) -> Row:
        if missing := [name for name in self._preset.columns if row.get(name) is None]:
            raise UserError(f"no {', '.join(missing)}")
        pair = self._preset.pair(row)
        read = text_pair(pair, self._folder)
        if read["chosen"] == read["rejected"]:
            raise UserError("both sides are the same, so neither is better: leave the row out")
        check_alike(row, self._first, [name for name in RATED if name in self._preset.kept])
        return {**read, **rated(pair)}


class TextSamples(_Texts):
    """Demonstrations: columns prompt, completion and images, plain or conversational; or messages and images.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """

    layouts = (frozenset({"prompt", "completion"}), frozenset({"messages"}))

    def _read(self, row: Message) -> Row:
        return text_sample(row, self._folder)


def text_prompt(row: Message, folder: Path) -> Row:
    """A prompt in TRL's columns. Raises UserError that says what is wrong with it."""
    return {"prompt": _prompt(row.get("prompt"), row, folder)}


def text_sample(row: Message, folder: Path) -> Row:
    """A demonstration in TRL's columns. Raises UserError that says what is wrong with it."""
    if row.get("messages") is not None:
        messages = _messages(row["messages"], "user")
        asked: Any = messages[:-1]
        said: Any = messages[-1:]
    else:
        asked, said = row.get("prompt"), row.get("completion")
        if said is None:
            raise UserError("no completion")
    return {"prompt": _prompt(asked, row, folder), "sample": _answer(_messages(said, "assistant"))}


def text_pair(row: Message, folder: Path) -> Row:
    """A pair in TRL's columns. Raises UserError that says what is wrong with it."""
    chosen, rejected = _messages(row["chosen"], "assistant"), _messages(row["rejected"], "assistant")
    asked = row.get("prompt")
    if asked is None:
        shared = _shared(chosen, rejected)
        asked, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return {"prompt": _prompt(asked, row, folder), "chosen": _answer(chosen), "rejected": _answer(rejected)}


def _prompt(asked: Any, row: Message, folder: Path) -> Prompt:
    """The prompt in a cell, with the row's pictures, which are relative to `folder`."""
    messages = _messages(asked, "user")
    turns = [Turn(str(message["role"]), _said(message)) for message in messages]
    if not turns or turns[-1].role != "user":
        raise UserError("a prompt must end with what the user says")
    _check_first(messages)
    one = row.get("image") if row.get("images") is None else None
    images = pictures(row if one is None else {"images": [one]}, folder)
    if (slots := sum(map(_slots, messages))) not in (0, len(images)):
        raise UserError(f"the prompt shows {slots} pictures, but there are {len(images)} in `images`")
    return Prompt(turns[-1].text, images=images, history=tuple(turns[:-1]), videos=_videos(row, folder))


class TextScored(TextSamples):
    """Demonstrations with a score, for objectives that weigh rows: columns prompt, completion, score and images; and rivals.

    path: a .jsonl, .csv or .parquet file, or the id of a data set on the hub. Pictures are relative to the file.
    split: which split, for a data set on the hub.
    template: what the model is asked; `{prompt}` is the prompt, `{name}` what the row's column of that name holds.
    """

    layouts = (frozenset({"prompt", "completion", "score"}), frozenset({"messages", "score"}))

    def _read(self, row: Message) -> Row:
        check_alike(row, self._first, ("rivals",))
        return {**super()._read(row), **scored(row, "score")}


def _messages(cell: Any, role: str) -> list[Message]:
    """A cell as a conversation; a plain text is one thing said by `role`."""
    if isinstance(cell, str):
        return [{"role": role, "content": cell}]
    if isinstance(cell, list) and all(map(_is_message, cell)):
        return cell
    raise UserError(f"{str(cell)[:60]!r} is neither a text nor a list of messages with role and content")


def _is_message(cell: Any) -> bool:
    """Whether it has a role, and content that is a text or a list of parts."""
    if not isinstance(cell, Mapping) or "role" not in cell:
        return False
    said = cell.get("content")
    return isinstance(said, str) or (isinstance(said, list) and all(isinstance(part, Mapping) for part in said))


def _answer(messages: Sequence[Message]) -> str:
    """The text of an answer, which is one message of the assistant. Raises UserError where nothing is said."""
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(str(message["role"]) for message in messages) or "nothing"
        raise UserError(f"an answer must be one message of the assistant, this is {roles}")
    if not (said := _said(messages[0])).strip():
        raise UserError("an answer is empty: write it, or leave the row out")
    return said


def _shared(one: Sequence[Message], other: Sequence[Message]) -> int:
    """How many messages two conversations begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)) - 1)


def _said(message: Message) -> str:
    """The text of a message, whose content is a text or a list of parts. Bytes that are no UTF-8 are a UserError."""
    if isinstance(message["content"], str):
        said = message["content"]
    else:
        said = "".join(str(part.get("text") or "") for part in message["content"] if part.get("type") != "image")
    if any("\ud800" <= letter <= "\udfff" for letter in said):  # how a file's stray bytes are read
        raise UserError(f"{said[:60]!a} is not UTF-8 text: save the file as UTF-8")
    return said


def _slots(message: Message) -> int:
    """How many pictures a message shows in its content."""
    return sum(part.get("type") == "image" for part in message["content"]) if _in_parts(message) else 0


def _check_first(messages: Sequence[Message]) -> None:
    """Raise UserError where the conversation shows a picture anywhere but first."""
    for message, earlier in zip(messages, _users_before(messages), strict=True):
        kinds = [part.get("type") for part in message["content"]] if _in_parts(message) else []
        if "image" in kinds and (earlier or message["role"] != "user" or "image" in kinds[kinds.count("image") :]):
            raise UserError("a picture stands after words; pictures are shown before the first thing the user says")


def _videos(row: Message, folder: Path) -> tuple[tuple[Media, ...], ...]:
    """The row's videos, each as its frames."""
    cells = row.get("videos") or []
    if not all(isinstance(cell, list) for cell in cells):
        raise UserError("`videos` holds a list of frames for each video: take the frames out of the file first")
    return tuple(tuple(medium(frame, folder) for frame in cell) for cell in cells)


def _users_before(messages: Sequence[Message]) -> list[int]:
    """For each message, how often the user spoke before it."""
    users = [message["role"] == "user" for message in messages]
    return [sum(users[:i]) for i in range(len(users))]


def _in_parts(message: Message) -> bool:
    return not isinstance(message["content"], str)
