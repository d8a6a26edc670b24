"""Whether chosen parts fit together: each function yields what does not, before anything is built."""

from collections.abc import Iterator, Sequence
from typing import Any

from mmalign.choices import Choice
from mmalign.config import Config, Rollouts
from mmalign.faults import Fault


def misfits(
    config: Config, model: Choice, data: Choice, objective: Choice, rewards: Sequence[Choice], process: Any
) -> Iterator[Fault]:
    """What does not fit together: needs ⊆ offers."""
    spec, name = objective.offer.spec, objective.offer.spec.name
    if missing := spec.needs - process.offers:
        offers = ", ".join(sorted(process.offers))
        yield "objective", f"'{name}' needs {_list(missing)}; model '{model.offer.spec.name}' offers {offers}"
    who, columns = (
        ("collect", config.collect.columns) if config.collect else (data.offer.spec.name, data.offer.spec.columns)
    )
    if missing := spec.columns - columns:
        hint = ": see collect.keep" if config.collect else ""
        yield "data", f"'{name}' needs rows with {_list(missing)}; '{who}' has {_list(columns)}{hint}"
    if (spec.reward != "none" or config.collect) and not rewards:
        yield "objective", f"{'collect' if config.collect else repr(name)} needs a reward: add `rewards: [...]`"
    if config.data.cache and "encodings" not in process.offers:
        yield "data.cache", f"model '{model.offer.spec.name}' has no encodings that could be kept: leave it out"
    for choice in rewards if spec.reward == "differentiable" else ():
        if not choice.offer.spec.differentiable:
            yield (
                choice.key,
                f"'{name}' needs differentiable rewards; '{choice.offer.spec.name}' is not: use it to evaluate",
            )


def rollout_faults(config: Config, model: Choice, objective: Choice, process: Any) -> Iterator[Fault]:
    """What does not fit between a model, an objective and the buffers that it trains on."""
    spec, name = objective.offer.spec, objective.offer.spec.name
    if spec.feed != "rollouts":
        if config.rollouts is not None:
            yield "rollouts", f"'{name}' trains on rows, not on rollouts: leave the section out"
        for i, part in enumerate(config.rewards):
            if part.normalize != "none":
                yield (
                    f"rewards.{i}.normalize",
                    f"'{name}' has no buffer to normalise in: only objectives on rollouts do",
                )
        return
    options = config.rollouts or Rollouts()
    if options.shared_noise and "steps" not in process.offers:
        yield "rollouts.shared_noise", f"model '{model.offer.spec.name}' begins with no noise: leave it out"
    if options.shared_noise and options.samples_per_prompt == 1:
        yield "rollouts.shared_noise", "one sample a prompt has none to share with: raise rollouts.samples_per_prompt"
    samples = options.prompts * options.samples_per_prompt
    if options.samples_per_prompt < spec.samples_per_prompt:
        least = spec.samples_per_prompt
        yield "rollouts.samples_per_prompt", f"'{name}' compares the samples of a prompt: set {least} or more"
    if options.epochs > 1 and not spec.reuses_samples:
        yield "rollouts.epochs", f"'{name}' has no ratio that makes up for weights that moved: leave it at 1"
    for key, value in (
        ("rollouts.samples_per_prompt", options.samples_per_prompt),
        ("trainer.batch_size", config.trainer.batch_size),
    ):
        if value % spec.neighbours:
            yield key, f"'{name}' takes samples {spec.neighbours} at a time: {value} is no multiple of that"
    if samples % config.trainer.batch_size:
        yield (
            "trainer.batch_size",
            f"{config.trainer.batch_size} does not divide the {samples} samples of a buffer "
            f"(rollouts.prompts {options.prompts} x rollouts.samples_per_prompt {options.samples_per_prompt})",
        )
    for i, part in enumerate(config.rewards):
        if part.normalize == "group" and options.samples_per_prompt == 1:
            yield f"rewards.{i}.normalize", "a group of one sample has no deviation: raise rollouts.samples_per_prompt"


def unmeasurable(
    config: Config, model: Choice, objective: Choice, held_out: Choice | None, process: Any
) -> Iterator[Fault]:
    """What cannot be evaluated."""
    if not makes_samples(process):
        remedy = "take evaluation.data, rows of which the objective's metrics are taken"
        if config.evaluation.prompts or config.evaluation.rewards or config.evaluation.metrics:
            yield "evaluation", f"model '{model.offer.spec.name}' scores and makes no samples: {remedy}"
        if config.collect:
            yield "collect", f"model '{model.offer.spec.name}' scores and makes no samples, so it has none to pair"
    if held_out and objective.offer.spec.feed == "rollouts":
        name = objective.offer.spec.name
        yield "evaluation.data", f"'{name}' trains on its own samples and has no loss of rows: take evaluation.rewards"
    elif held_out and (missing := objective.offer.spec.columns - held_out.offer.spec.columns):
        name, has = objective.offer.spec.name, _list(held_out.offer.spec.columns)
        yield "evaluation.data", f"'{name}' needs rows with {_list(missing)}; '{held_out.offer.spec.name}' has {has}"


def unjudged(metrics: Sequence[Choice], judge: Choice | None) -> Iterator[Fault]:
    """What metrics ask and nobody answers."""
    for choice in metrics:
        asks, name = choice.offer.spec.judge, choice.offer.spec.name
        if asks and judge is None:
            yield choice.key, f"'{name}' asks a judge for {_list(asks)}: name one under evaluation.judge"
        elif judge and (missing := asks - judge.offer.spec.offers):
            yield choice.key, f"'{name}' asks for {_list(missing)}, which judge '{judge.offer.spec.name}' does not give"


def makes_samples(process: Any) -> bool:
    """Whether models of a process answer prompts."""
    return hasattr(process, "sample")


def _list(words: Any) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words))
