"""A vision-language model behind an OpenAI-compatible endpoint as a judge: vLLM, llama.cpp, SGLang, or a service."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmalign.errors import UserError
from mmalign.records import Answer, Fact, Media, Prompt, Verdict
from mmalign_lvlm import facts, pictures
from mmalign_lvlm.judges import QUESTION, checked, yes_or_no
from mmalign_lvlm.judges.client import Client, Message, Question

AGAIN = "Answer with one word: yes or no."


class HttpJudge:
    """Asks a model behind an endpoint whether each fact is true of the picture, and, without the picture, what a segment claims.

    What does not answer, or not as it was asked to, is asked again, and has no verdict in the end.

    url: what stands before `/chat/completions`, for example http://localhost:8000/v1. model: its name there.
    key_variable: the environment variable that holds the key; the key itself has no place in a config.
    template: how it is asked; `{fact}` is the fact, a sentence.
    timeout: seconds of silence after which a question is asked again. retries: how often. backoff: seconds before the first
        time, doubled each time. concurrency: questions at once.
    cache: a folder of answers, by all that was asked; null keeps none.
    price: of a million tokens, those read and those written, to count the cost in money.
    max_tokens: how long an answer may be. body: further keys of a request, laid over those that it has; null takes one out.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        template: str = QUESTION,
        timeout: PositiveFloat = 60.0,
        retries: NonNegativeInt = 4,
        backoff: NonNegativeFloat = 1.0,
        concurrency: Annotated[int, Field(ge=1, le=256)] = 8,
        cache: str | None = "~/.cache/mmalign/judge",
        price: tuple[NonNegativeFloat, NonNegativeFloat] | None = None,
        max_tokens: PositiveInt = 512,
        body: Mapping[str, Any] = {},
    ):
        if not url.startswith(("http://", "https://")):
            raise UserError(f"url '{url}' is no address of an endpoint, such as http://localhost:8000/v1")
        self.template = checked(template)
        usual = {"model": model, "temperature": 0, "max_tokens": max_tokens, **body}
        self.client = Client(
            url,
            {key: value for key, value in usual.items() if value is not None},
            _key(key_variable),
            timeout,
            retries,
            backoff,
            concurrency,
            None if cache is None else Path(cache).expanduser(),
            price,
        )

    def verify(self, questions: Sequence[tuple[Prompt, Fact]]) -> list[Verdict]:
        """What the model says first, yes or no."""
        shown = {id(prompt): [_image(image) for image in prompt.images] for prompt, _ in questions}
        asked = [
            Question(
                [_user(self.template.replace("{fact}", fact.text), shown[id(prompt)])],
                _verdict,
                AGAIN,
            )
            for prompt, fact in questions
        ]
        return [Verdict("none") if one is None else one for one in self.client.ask(asked)]

    def facts(self, answers: Sequence[Answer]) -> list[list[list[Fact] | None]]:
        """By answer and by piece of it the facts that the model lists; None where it only says what cannot be read."""
        asked = [
            Question([_user(text, ())], facts.read, facts.AGAIN) for answer in answers for text in facts.asked(answer)
        ]
        told = iter(self.client.ask(asked))
        return [[next(told) for _ in answer.spans] for answer in answers]

    def ask(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """What the model says to each prompt and its pictures; None where it says nothing."""
        asked = [
            Question([_user(prompt.text, [_image(image) for image in prompt.images])], _something, "Please answer.")
            for prompt in prompts
        ]
        return self.client.ask(asked)

    def spent(self) -> dict[str, float]:
        """Requests, tokens and money."""
        return self.client.spent()


def _verdict(text: str) -> Verdict | None:
    """None where it is asked again."""
    yes = yes_or_no(text)
    return None if yes is None else Verdict("yes" if yes else "no")


def _something(text: str) -> str | None:
    return text.strip() or None


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"key_variable: the environment has no {variable}: export {variable}=... with the key")
    return os.environ[variable]


def _user(text: str, images: Sequence[Message]) -> Message:
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


def _image(media: Media) -> Message:
    """A picture within the request."""
    file = io.BytesIO()
    pictures.read(media).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": address}}
