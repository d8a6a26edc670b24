"""Ask an OpenAI-compatible endpoint: with patience, a bounded number at once, a cache on the disk, and a bill."""

import hashlib
import http.client
import json
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mmalign.errors import RunFailure, UserError

Message = Mapping[str, Any]
Found = TypeVar("Found")

_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Answers of a server that may be another one a moment later."""
_OURS = {301, 302, 307, 308, 401, 403, 404, 405}
"""Answers that are the same for every question: the config is wrong."""
_LONGEST = 60.0
"""Seconds that are waited at most before asking again."""
_GIVE_UP = 20
"""Questions in a row without answer after which the endpoint counts as gone."""
_REASONS = 5
"""How many different reasons for questions without answer are told."""


@dataclass(frozen=True)
class Question:
    """What is asked. read: the meaning of an answer, None if it is nonsense. again: what is said to a nonsensical one."""

    messages: Sequence[Message]
    read: Callable[[str], Any]
    again: str


class Unavailable(Exception):
    """No answer. after: seconds that the server asks to wait. passing: whether to ask again."""

    def __init__(self, reason: str, after: float = 0.0, passing: bool = True):
        super().__init__(reason)
        self.after = after
        self.passing = passing


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: a key is for the endpoint that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Client:
    """An endpoint.

    url: up to what stands before `/chat/completions`. body: the keys of a request beside its messages. key: sent as bearer
    token. timeout: seconds of silence. retries: how often a question is asked again. backoff: seconds before the first time,
    doubled each time. concurrency: questions at once. cache: a folder, or None. price: of a million tokens, read and written.
    """

    url: str
    body: Mapping[str, Any]
    key: str | None = None
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    concurrency: int = 8
    cache: Path | None = None
    price: tuple[float, float] | None = None
    _spent: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _in_vain: int = 0
    _told: set[str] = field(default_factory=set)

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """What each answer means; None where there was none that means anything."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                return list(pool.map(self._asked, questions))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def spent(self) -> dict[str, float]:
        """Requests, tokens and money since it was made."""
        with self._lock:
            spent: dict[str, float] = dict(self._spent)
        if self.price is not None:
            tokens = (spent.get("tokens read", 0), spent.get("tokens written", 0))
            spent["money"] = sum(n * price for n, price in zip(tokens, self.price, strict=True)) / 1e6
        return spent

    def _asked(self, question: Question) -> Any:
        messages = question.messages
        for attempt in range(self.retries + 1):
            self._count("asked again", int(attempt > 0))
            try:
                text = self._kept(messages) or self._sent(messages)
            except Unavailable as error:
                if not error.passing or attempt == self.retries:
                    self._tell(str(error))
                    break
                self._wait(attempt, error.after)
                continue
            if (meaning := question.read(text)) is not None:
                self._keep(messages, text)
                return meaning
            self._count("nonsense")
            said = [{"role": "assistant", "content": text}, {"role": "user", "content": question.again}]
            messages = [*question.messages, *said]
        self._count("no answer")
        return None

    def _sent(self, messages: Sequence[Message]) -> str:
        """One request."""
        self._count("requests")
        try:
            text = self._posted({**self.body, "messages": list(messages)})
        except Unavailable as error:
            with self._lock:
                self._in_vain += error.passing
                gone = self._in_vain >= _GIVE_UP * (self.retries + 1)
            if gone:
                raise RunFailure(f"{self.url} does not answer ({error}): see to it, then go on with --resume") from None
            raise
        self._in_vain = 0
        return text

    def _posted(self, body: Mapping[str, Any]) -> str:
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **key},
        )
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self.timeout) as response:
                return self._billed(json.loads(response.read()))
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise Unavailable("the answer is none of a chat completion") from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        try:
            said = error.read(300).decode(errors="replace")
        except (OSError, http.client.HTTPException):  # it went silent before it had said why
            said = ""
        reason = f"HTTP {error.code}: {' '.join(said.split())}"
        if error.code in _OURS:
            return UserError(f"{self.url}: {reason}: check url, model and key_variable of the judge")
        wait = error.headers.get("Retry-After", "")
        return Unavailable(reason, float(wait) if wait.isdecimal() else 0.0, error.code in _PASSING)

    def _billed(self, answer: Any) -> str:
        """The text of a chat completion, whose tokens are counted."""
        text = answer["choices"][0]["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError
        usage = answer.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        self._count("tokens read", int(usage.get("prompt_tokens") or 0))
        self._count("tokens written", int(usage.get("completion_tokens") or 0))
        return text

    def _wait(self, attempt: int, after: float) -> None:
        # Not all at the same time, or they meet again.
        time.sleep(min(_LONGEST, max(after, self.backoff * 2**attempt * random.uniform(0.5, 1.0))))

    def _tell(self, reason: str) -> None:
        """Say why a question stays without answer, the first time that it is for this reason."""
        with self._lock:
            if reason in self._told or len(self._told) >= _REASONS:
                return
            self._told.add(reason)
        print(f"warning: {self.url}: a question stays without answer: {reason}", file=sys.stderr)

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._spent[name] += number

    # ---- cache

    def _kept(self, messages: Sequence[Message]) -> str | None:
        """What was answered before, to the same of the same."""
        path = self._file(messages)
        if path is None or not path.is_file():
            return None
        self._count("from cache")
        text: str = json.loads(path.read_text(encoding="utf-8"))["answer"]
        return text

    def _keep(self, messages: Sequence[Message], text: str) -> None:
        """Keep an answer that means something; nonsense may be better another day."""
        path = self._file(messages)
        if path is None or path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")  # several may ask the same
        partial.write_text(json.dumps({"answer": text}), encoding="utf-8")
        os.replace(partial, path)

    def _file(self, messages: Sequence[Message]) -> Path | None:
        if self.cache is None:
            return None
        asked = json.dumps([self.url, self.body, messages], sort_keys=True)
        name = hashlib.sha256(asked.encode()).hexdigest()
        return self.cache / name[:2] / f"{name}.json"
