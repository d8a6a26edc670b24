"""Any vision-language model that `vlm` loads as a judge: how likely it finds "yes", how likely "no".

    p_yes = P(Yes) + P(yes),  p_no = P(No) + P(no)        the fact is accepted iff p_yes > p_no

as in RLAIF-V (Yu et al. 2024, arXiv:2405.17220). Where it differs: an answer of several tokens counts with all of them, and
an answer that the tokenizer cannot tell from one of the other side is left out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from mmalign.errors import UserError
from mmalign.processes.policy import evaluating
from mmalign.processes.tokens import Ids, Sampling, TokensPolicy
from mmalign.records import Answer, Fact, Prompt, Verdict
from mmalign_lvlm import facts
from mmalign_lvlm.judges import QUESTION, checked
from mmalign_lvlm.models.lora import Lora

YES, NO = ("Yes", "yes"), ("No", "no")
_TEMPERATURE = 0.7
"""At which the model is asked again whose likeliest answer was nonsense."""


class VisionLanguageJudge:
    """Asks a vision-language model whether each fact is true of the picture, and, without the picture, what a segment claims.

    path, dtype, max_length, max_pixels: as of the model `vlm`.
    template: how it is asked; `{fact}` is the fact, a sentence.
    batch_size: questions at a time.
    max_new_tokens: how long its list of a segment's facts may be. retries: how often it is asked again for one that cannot
        be read; after that the segment has no verdict.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        max_length: PositiveInt | None = None,
        max_pixels: PositiveInt | None = None,
        template: str = QUESTION,
        batch_size: PositiveInt = 8,
        max_new_tokens: PositiveInt = 256,
        retries: NonNegativeInt = 2,
    ):
        from mmalign_lvlm.models import VisionLanguageModel

        self.template = checked(template)
        self.batch_size = batch_size
        self.retries = retries
        # The matrices begin at zero and never train, so that the model is what was loaded.
        model = VisionLanguageModel(
            path, dtype=dtype, adapter=Lora(rank=1), max_length=max_length, max_pixels=max_pixels
        )
        self.policy = TokensPolicy(model, Sampling(max_new_tokens=max_new_tokens, temperature=_TEMPERATURE))

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.policy.model.to(device)
        return self

    # ---- verdicts

    def verify(self, questions: Sequence[tuple[Prompt, Fact]]) -> list[Verdict]:
        """ "yes" where p_yes > p_no; `p_yes` is the share p_yes / (p_yes + p_no)."""
        asked = [Prompt(self.template.replace("{fact}", fact.text), images=prompt.images) for prompt, fact in questions]
        return [verdict for batch in _pieces(asked, self.batch_size) for verdict in self._verdicts(batch)]

    @torch.no_grad()
    def _verdicts(self, asked: Sequence[Prompt]) -> Iterator[Verdict]:
        rows = [(prompt, *row) for prompt in asked for row in self._sayable(prompt)]
        with evaluating(self.policy.network):
            encoded = self.policy.model.encode([prompt for prompt, _, _ in rows], [ids for _, _, ids in rows])
            found = self.policy.log_likelihood(encoded, self.policy.draw(encoded, torch.Generator()))
        # What comes after the answer is no part of the question.
        before_end = torch.tensor([len(ids) - 1 for _, _, ids in rows]).to(found.values.device)
        counts = torch.arange(found.values.shape[1], device=found.values.device) < before_end[:, None]
        likely = (found.values.double() * found.mask * counts).sum(dim=1).exp().cpu()
        for prompt in asked:
            sides = [likely[[p is prompt and yes == side for p, yes, _ in rows]].sum() for side in (True, False)]
            yield _verdict(*sides)

    def _sayable(self, prompt: Prompt) -> list[tuple[bool, Ids]]:
        """Every way to say yes (True) or no (False) that is only one of the two, each once."""
        model = self.policy.model
        yes, no = ({tuple(ids) for ids in model.tokenize([prompt] * len(ways), ways)} for ways in (YES, NO))
        if not yes - no or not no - yes:
            raise UserError("judge: this model's tokenizer knows no difference between yes and no")
        return [(True, list(ids)) for ids in sorted(yes - no)] + [(False, list(ids)) for ids in sorted(no - yes)]

    # ---- facts

    def facts(self, answers: Sequence[Answer]) -> list[list[list[Fact] | None]]:
        """By answer and by piece of it the facts that the model lists; None where it only says what cannot be read."""
        prompts = [Prompt(text) for answer in answers for text in facts.asked(answer)]
        found: list[list[Fact] | None] = [None] * len(prompts)
        for attempt in range(self.retries + 1):
            left = [i for i, one in enumerate(found) if one is None]
            for batch in _pieces(left, self.batch_size):
                for i, text in zip(batch, self._said([prompts[i] for i in batch], attempt), strict=True):
                    found[i] = facts.read(text)
        told = iter(found)
        return [[next(told) for _ in answer.spans] for answer in answers]

    # ---- answers

    def ask(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """The likeliest answer to each prompt; None where it is empty."""
        batches = _pieces(prompts, self.batch_size)
        return [text.strip() or None for batch in batches for text in self.policy.likeliest(batch).responses]

    # ---- inside

    def _said(self, prompts: Sequence[Prompt], attempt: int) -> Sequence[str]:
        """The likeliest answers first, drawn ones after that."""
        if attempt == 0:
            return self.policy.likeliest(prompts).responses
        return self.policy.sample(prompts, [attempt] * len(prompts)).responses


def _verdict(yes: Tensor, no: Tensor) -> Verdict:
    share = float(yes / (yes + no))
    if not 0 <= share <= 1:  # NaN: neither is possible, or the model's numbers are none
        return Verdict("none")
    return Verdict("yes" if share > 0.5 else "no", share)


def _pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
