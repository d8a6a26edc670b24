"""Tokens: models that say their answer one token after the other, each given all before it.

A plugin gives an adapter (`TokensModel`); `TokensPolicy` makes of it exact log-probabilities, samples and rollouts. A unit is
a token of the response, its end included; prompts, placeholders of pictures and padding never count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmalign.errors import UserError
from mmalign.maths import changes
from mmalign.maths.log_probs import likeliest_tokens, token_divergence, token_log_probs
from mmalign.processes import segments
from mmalign.processes.policy import Adapter, AdapterPolicy, evaluating
from mmalign.records import Compared, Draw, LogProbs, Media, Prompt, Rollout, Samples, Spans
from mmalign.samplers.tokens import choose

Ids = Sequence[int]
Choose = Callable[[Tensor, int], Tensor]
"""Logits `[B, V]` of the next token and how many were said before -> the next token of each sample `[B]`."""


@dataclass(frozen=True)
class Encoded:
    """Prompts with responses as the network sees them.

    inputs: what the network is given, named. ids: `[B, T]`, for each hidden state the token at its place. mask: `[B, T]`, 1 on
        response tokens.
    """

    inputs: Mapping[str, Tensor]
    ids: Tensor
    mask: Tensor


class TokensModel(Adapter, Protocol):
    """What a plugin's adapter gives."""

    def tokenize(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[Ids]:
        """What the model would have to say for each text to be its whole answer, the end included."""
        ...

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[Ids]) -> Encoded:
        """Prompts followed by responses, padded where it changes nothing. Raises UserError that names what is too long."""
        ...

    @property
    def hidden_size(self) -> int:
        """H, how wide a hidden state is."""
        ...

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The network's last hidden states `[B, T, H]`."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[N, V]` of hidden states `[N, H]`."""
        ...

    def generate(self, prompts: Sequence[Prompt], choose: Choose, max_new_tokens: int) -> Sequence[Ids]:
        """One response a prompt, the end included where it was said; `choose` picks every token.

        What draws by itself, as vLLM does, takes seeds and sampling of a `Draws` and calls it for no token.
        """
        ...

    def decode(self, responses: Sequence[Ids]) -> list[str]:
        """The texts of responses, without special tokens."""
        ...

    def recompute_layers(self) -> None:
        """From now on the backward pass computes each layer again instead of keeping all of it until then."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    max_new_tokens: tokens after which a response is cut off.
    temperature: divides the logits; 0 always takes the likeliest token.
    top_p: only the likeliest tokens that together hold this probability are drawn; 1 is all.
    top_k: only so many likeliest tokens are drawn; 0 is all.
    """

    max_new_tokens: PositiveInt = 128
    temperature: NonNegativeFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: NonNegativeInt = 0


@dataclass(frozen=True)
class Draws:
    """Chooses every token as `sampling` says, by random numbers of each response's own seed (`Choose`).

    They come from generators on the CPU, so that they are the same on every device.
    """

    seeds: Sequence[int]
    sampling: Sampling

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """`[B]` from `[B, V]`."""
        how = self.sampling
        return choose(logits, self._uniform[:, step].to(logits.device), how.temperature, how.top_p, how.top_k)

    @cached_property
    def _uniform(self) -> Tensor:
        """One number a response and token, `[B, max_new_tokens]`."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return torch.stack([torch.rand(self.sampling.max_new_tokens, generator=one) for one in generators])


_CRITIC = "critic."
"""What the critic's weights begin with among those of a policy."""

# Within the policy its own attribute hides the class of that name.
_Sampling = Sampling


class TokensPolicy(AdapterPolicy[TokensModel]):
    """A language model as objectives see it.

    gradient_checkpointing: the backward pass computes each layer again, to keep less until then. Logits are always
        made piece by piece and again.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {
            "likelihood",
            "exact-likelihood",
            "divergence",
            "changed-units",
            "misreadings",
            "segments",
            "rollouts",
            "likeliest",
            "mixture",
            "values",
        }
    )
    Sampling = _Sampling

    def __init__(self, model: TokensModel, sampling: _Sampling, gradient_checkpointing: bool = False):
        self.model = model
        self.sampling = sampling
        self._critic: nn.Linear | None = None
        if gradient_checkpointing:
            model.recompute_layers()

    # ---- samples

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Samples:
        """One response a prompt. Each depends on its own prompt and seed alone, not on the batch around it."""
        return self._samples(prompts, seeds, self._generate(prompts, seeds, self.sampling))

    @torch.no_grad()
    def likeliest(self, prompts: Sequence[Prompt]) -> Samples:
        """The response to each prompt whose every token is the likeliest."""
        greedy, seeds = replace(self.sampling, temperature=0.0), [0] * len(prompts)
        return self._samples(prompts, (), self._generate(prompts, seeds, greedy))

    @torch.no_grad()
    def mixed(self, prompts: Sequence[Prompt], seeds: Sequence[int], share: float) -> Samples:
        """One response a prompt, each token drawn from r^c p^(1-c) / Z, between the reference (r) and the policy (p).

        share: c; at 0 they are those of `sample`, where no engine draws these. The reference reads everything again for
            every token.
        """
        pick, said = Draws(seeds, self.sampling), [list[int]() for _ in prompts]
        ends = [ids[-1] for ids in self.model.tokenize(prompts, [""] * len(prompts))]

        def between(logits: Tensor, step: int) -> Tensor:
            next_ones = [[*response, end] for response, end in zip(said, ends, strict=True)]
            reference = self._reference_logits(self.model.encode(prompts, next_ones)).to(logits)
            chosen = pick(torch.where(logits.isneginf(), logits, logits.lerp(reference, share)), step)
            for response, token in zip(said, chosen.tolist(), strict=True):
                response.append(token)
            return chosen

        with evaluating(self.network):
            units = self.model.generate(prompts, between, self.sampling.max_new_tokens)
        return self._samples(prompts, seeds, units)

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Rollout:
        """Samples with the log-probabilities of their tokens `[B, U]`, as `replay` will find them while nothing trains.

        They come from the network that trains, not from the one that generates with a cache, whose rounding differs.
        They are of the softmax at the sampling's temperature: top_p and top_k count as how it was sampled, not as policy.
        """
        units = self._generate(prompts, seeds, self.sampling)
        with evaluating(self.network):
            log_probs = self._log_probs(self.model.encode(prompts, units), self._temperature)
        return Rollout(self._samples(prompts, seeds, units), log_probs, units)

    def replay(self, rollout: Rollout) -> LogProbs:
        """How likely today's weights find the tokens of a rollout (or a slice of one), `[B, U]`, with gradient."""
        encoded = self.model.encode(rollout.samples.prompts, rollout.units)
        return self._log_probs(encoded, self._temperature, rollout.log_probs.values.shape[1])

    def add_critic(self) -> None:
        """Let a line from hidden states to values train with the network, of which it becomes a part. It begins at 0."""
        self._critic = nn.Linear(self.model.hidden_size, 1, device=self.model.device)
        nn.init.zeros_(self._critic.weight)
        nn.init.zeros_(self._critic.bias)
        self.network.add_module("critic", self._critic)

    def replay_with_values(self, rollout: Rollout) -> tuple[LogProbs, Tensor]:
        """As `replay`, and the critic's value of what stands before each token, `[B, U]`, 0 where none counts."""
        assert self._critic is not None, "compose adds it where the objective needs values"
        encoded = self.model.encode(rollout.samples.prompts, rollout.units)
        hidden = self.model.hidden(encoded.inputs)
        width = rollout.log_probs.values.shape[1]
        log_probs = self._log_probs_of(hidden, encoded, self._temperature, width)
        states = hidden[:, :-1][encoded.mask[:, 1:].bool()]
        values = self._critic(states.to(self._critic.weight.dtype))[:, 0].to(log_probs.values)
        return log_probs, torch.zeros_like(log_probs.values).masked_scatter(log_probs.mask > 0, values)

    # ---- weights

    def state_dict(self) -> dict[str, Any]:
        """The trainable weights, the critic's among them."""
        critic = self._critic.state_dict() if self._critic is not None else {}
        return {**super().state_dict(), **{f"{_CRITIC}{name}": value for name, value in critic.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take trainable weights back."""
        own = {name.removeprefix(_CRITIC): value for name, value in state.items() if name.startswith(_CRITIC)}
        if self._critic is not None and own:
            self._critic.load_state_dict(own)
        super().load_state_dict({name: value for name, value in state.items() if not name.startswith(_CRITIC)})

    # ---- likelihood

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], rng: torch.Generator) -> Encoded:
        """Prompts and their responses as the network sees them. Nothing about it is random."""
        return self.model.encode(prompts, self.model.tokenize(prompts, [text_of(one) for one in media]))

    def draw(self, encoded: Encoded, rng: torch.Generator, copies: int = 1) -> Draw:
        """Nothing: the likelihood is exact, so there is no randomness to share."""
        return Draw(torch.empty(0), torch.empty(0))

    def log_likelihood(self, encoded: Encoded, draw: Draw) -> LogProbs:
        """The log-probabilities of the response tokens `[B, U]`, the first of each response at unit 0."""
        return self._log_probs(encoded)

    def compared(self, encoded: Encoded, draw: Draw) -> Compared:
        """Policy and reference by one forward of each; KL(reference ‖ policy) of each response token is exact."""
        counts = _counts(encoded)
        ids, head = encoded.ids[:, 1:][counts], self.model.head
        with torch.no_grad(), self.reference():
            reference = self.model.hidden(encoded.inputs)[:, :-1][counts]
            theirs = token_log_probs(reference, ids, head)
        hidden = self.model.hidden(encoded.inputs)[:, :-1][counts]
        ours = token_log_probs(hidden, ids, head)
        apart = token_divergence(hidden, reference, head, self._reference_head)
        return Compared(*(_left_aligned(found, counts) for found in (ours, theirs, apart)))

    def changed(self, encoded: Encoded) -> Tensor:
        """1 at response tokens in which the sides of a pair differ `[2B, U]` (`maths.changes`); winners, then losers."""
        said = [ids[mask.bool()].tolist() for ids, mask in zip(encoded.ids, encoded.mask, strict=True)]
        pairs = zip(said[: len(said) // 2], said[len(said) // 2 :], strict=True)
        winners, losers = zip(*(changes.changed(*pair) for pair in pairs), strict=True)
        flags = [torch.tensor(flags, dtype=torch.float32) for flags in (*winners, *losers)]
        return pad_sequence(flags, batch_first=True).to(encoded.ids.device)

    @torch.no_grad()
    def misread(self, encoded: Encoded, shown: Encoded) -> Encoded:
        """The last rows of `encoded`, as many as `shown` has, are asked for other tokens: at each place of their response for
        the likeliest one where `shown`, the same responses to other prompts, is read. What comes before each place stays.
        """
        rows, counts = slice(-len(shown.ids), None), _counts(shown)
        if not encoded.mask[rows].sum(dim=1).equal(shown.mask.sum(dim=1)):
            raise UserError(
                "a response is cut elsewhere after another prompt: raise model.max_length, or leave its row out"
            )
        with evaluating(self.network):
            said = likeliest_tokens(self.model.hidden(shown.inputs)[:, :-1][counts], self.model.head)
        ids = encoded.ids.clone()
        ids[rows] = ids[rows].masked_scatter(encoded.mask[rows].bool(), said)
        return replace(encoded, ids=ids)

    # ---- segments of what was said

    def at_units(self, rollout: Rollout, spans: Spans) -> Tensor:
        """What segments earned, each at the unit in which it ends, `[N, U]`; summed where several end in one.

        What ends after all that was said counts at the last unit, so that nothing is lost.
        """
        found = torch.zeros_like(rollout.log_probs.values)
        for row, ids, text, own in zip(found, rollout.units, rollout.samples.responses, spans, strict=True):
            ends = segments.units_at([end for end, _ in own], self.model.decode, ids, text)
            for unit, (_, earned) in zip(ends, own, strict=True):
                row[unit] += earned
        return found

    def within(self, encoded: Encoded, media: Sequence[Media], spans: Sequence[Sequence[segments.Span]]) -> Tensor:
        """Which units say something of which segment of their text, `[B, U, S]` of 0 and 1; S is the most that one has.

        spans: where segments begin and end. Raises UserError where a text is not what its units say.
        """
        texts = [text_of(one) for one in media]
        said = [row[mask.bool()].tolist() for row, mask in zip(encoded.ids, encoded.mask, strict=True)]
        rows = [segments.within(own, self.model.decode, *row) for own, *row in zip(spans, said, texts, strict=True)]
        found = torch.zeros(len(rows), max(map(len, said)), max(map(len, spans)), device=encoded.ids.device)
        for row, own in zip(found, rows, strict=True):
            row[: own.shape[0], : own.shape[1]] = own
        return found

    # ---- inside

    @property
    def _temperature(self) -> float:
        """That of the distribution which rollouts are drawn from; drawing the likeliest token has none."""
        return self.sampling.temperature or 1.0

    def _generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], options: _Sampling) -> Sequence[Ids]:
        with evaluating(self.network):
            return self.model.generate(prompts, Draws(seeds, options), options.max_new_tokens)

    def _samples(self, prompts: Sequence[Prompt], seeds: Sequence[int], units: Sequence[Ids]) -> Samples:
        return Samples(prompts, self.model.decode(units), seeds)

    def _log_probs(self, encoded: Encoded, temperature: float = 1.0, width: int | None = None) -> LogProbs:
        """`[B, U]`, where U is `width`, or the longest response."""
        return self._log_probs_of(self.model.hidden(encoded.inputs), encoded, temperature, width)

    def _log_probs_of(self, hidden: Tensor, encoded: Encoded, temperature: float, width: int | None) -> LogProbs:
        counts = _counts(encoded)
        found = token_log_probs(hidden[:, :-1][counts], encoded.ids[:, 1:][counts], self.model.head, temperature)
        return _left_aligned(found, counts, width)

    def _reference_logits(self, encoded: Encoded) -> Tensor:
        """`[B, V]`: what the reference would say in the place of each response's last token."""
        places = torch.arange(encoded.mask.shape[1], device=encoded.mask.device)
        last = (places * encoded.mask).argmax(dim=1)
        with self.reference():
            hidden = self.model.hidden(encoded.inputs)
            return self.model.head(hidden[torch.arange(len(last), device=last.device), last - 1])

    def _reference_head(self, hidden: Tensor) -> Tensor:
        with torch.no_grad(), self.reference():
            return self.model.head(hidden)


def _counts(encoded: Encoded) -> Tensor:
    """`[B, T - 1]`: whether what position t says, which stands at t + 1, is a response token."""
    return encoded.mask[:, 1:].bool()


def _left_aligned(found: Tensor, counts: Tensor, width: int | None = None) -> LogProbs:
    """Values `[N]` of the tokens that count, each row's from unit 0 on: `[B, U]`, U being `width` or the longest row."""
    lengths = counts.sum(dim=1)
    places = torch.arange(int(lengths.max()) if width is None else width, device=lengths.device)
    mask = places < lengths[:, None]
    return LogProbs(found.new_zeros(mask.shape).masked_scatter(mask, found), mask.to(found))


def text_of(media: Media) -> str:
    """A response as data sets hold it: the text itself, or a file or bytes of UTF-8. Raises UserError for anything else."""
    try:
        if isinstance(media, Path):
            return media.read_text(encoding="utf-8")
        if isinstance(media, bytes):
            return media.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the response in {str(media)[:80]} ({error}): a response is UTF-8 text") from None
    if isinstance(media, str):
        return media
    raise UserError("this model answers in words, but the data hold pixels: use data of texts, such as `text-pairs`")
