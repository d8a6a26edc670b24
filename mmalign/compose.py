"""Choose, then build: from a checked document to the parts of a run.

`choose` finds every part, checks its options and that what the objective needs is what the model, the rewards and the data
offer; it loads no weight. `build` makes the parts, the cheap ones first, so that a missing file is found before a model loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmalign import guidance, options
from mmalign.choices import Choice, Picker
from mmalign.config import Config, Part, Rollouts
from mmalign.document import Document
from mmalign.errors import UserError
from mmalign.faults import Fault
from mmalign.fits import misfits, rollout_faults, unjudged, unmeasurable
from mmalign.guidance import Lead
from mmalign.metrics import CheckedMetric
from mmalign.parts import Judge, Metric, Parts, Source
from mmalign.plugins import Plugins
from mmalign.processes import process_class
from mmalign.records import Prompt
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from mmalign.specs import Objective


@dataclass(frozen=True)
class Chosen:
    """Everything a config asks for, found and checked, nothing built."""

    document: Document
    plugins: Plugins
    model: Choice
    data: Choice
    objective: Choice
    rewards: Sequence[Choice]
    judges: Sequence[Choice]
    prompts: Choice | None
    held_out: Choice | None
    metrics: Sequence[Choice]
    judge: Choice | None
    guidance: Choice | None
    leads: Sequence[Choice]
    process: type[Any]
    sampling: dict[str, Any]

    @property
    def config(self) -> Config:
        """The checked document."""
        return self.document.config

    @property
    def evaluation_sampling(self) -> Any:
        """How samples are drawn that are looked at."""
        return self.process.Sampling(**{**self.sampling, **self.config.evaluation.sampling})

    @property
    def rollouts(self) -> Rollouts | None:
        """How buffers are made, where the objective trains on rollouts."""
        return (self.config.rollouts or Rollouts()) if self.objective.offer.spec.feed == "rollouts" else None


def choose(document: Document, plugins: Plugins) -> Chosen:
    """Find and check every part. Raises one UserError that lists every fault with its file and line."""
    faults: list[Fault] = list(document.faults)
    config = document.config
    pick = Picker(plugins, faults)
    model = pick("model", "model", config.model)
    data = pick("data", "dataset", config.data)
    objective = pick("objective", "objective", config.objective)
    rewards = [pick(f"rewards.{i}", "reward", part) for i, part in enumerate(config.rewards)]
    judges = [pick(f"evaluation.rewards.{i}", "reward", part) for i, part in enumerate(config.evaluation.rewards)]
    metrics = [pick(f"evaluation.metrics.{i}", "metric", part) for i, part in enumerate(config.evaluation.metrics)]
    judge = pick("evaluation.judge", "judge", config.evaluation.judge) if config.evaluation.judge else None
    prompts = pick("evaluation.prompts", "dataset", config.evaluation.prompts) if config.evaluation.prompts else None
    held_out = pick("evaluation.data", "dataset", config.evaluation.data) if config.evaluation.data else None
    lead, leads = guidance.picked(pick, "evaluation.guidance", config.evaluation.guidance)
    process = process_of(plugins, config.model)
    sampling = complete_sampling(process, "sampling", config.sampling, faults)
    complete_sampling(process, "evaluation.sampling", config.evaluation.sampling, faults)
    if model and data and objective and None not in rewards:
        faults += misfits(config, model, data, objective, rewards, process)
        faults += rollout_faults(config, model, objective, process)
        faults += unmeasurable(config, model, objective, held_out, process)
        faults += guidance.misled(lead, leads, model, process) if lead and None not in leads else []
    if judge or config.evaluation.judge is None:
        faults += unjudged([choice for choice in metrics if choice], judge)
    if faults:
        raise document.refusal(faults)
    measures = (prompts, held_out, metrics, judge, lead, leads)
    chosen = Chosen(document, plugins, model, data, objective, rewards, judges, *measures, process, sampling)
    plugins.hook.mmalign_configure(config=config, catalogue=plugins.catalogue)
    return chosen


def build(chosen: Chosen, device: torch.device | str = "cpu") -> Parts:
    """Make every part, data first and the model last, and put the model on `device`."""
    data = chosen.data.build()
    if len(data) == 0:
        raise UserError(f"{chosen.document.where('data')}: data: {chosen.data.offer.spec.name} holds no rows")
    prompts = evaluation_prompts(chosen)
    rewards = _rewards(chosen, device)
    judges = build_judges(chosen, device)
    measures = (prompts, build_held_out(chosen), build_metrics(chosen, device), build_guidance(chosen, device))
    return Parts(build_policy(chosen, device), build_objective(chosen), data, rewards, judges, *measures)


def build_policy(chosen: Chosen, device: torch.device | str = "cpu") -> Any:
    """The model's adapter inside its process."""
    model = chosen.model.build().to(device)
    sampling = chosen.process.Sampling(**chosen.sampling)
    policy = chosen.process(model, sampling, gradient_checkpointing=chosen.config.trainer.gradient_checkpointing)
    if "values" in chosen.objective.offer.spec.needs:
        policy.add_critic()
    return policy


def resolved(chosen: Chosen) -> dict[str, Any]:
    """The whole document as plain data, every default visible."""
    plain = chosen.config.plain()
    optional = (chosen.prompts, chosen.held_out, chosen.judge, chosen.guidance)
    for choice in (
        chosen.model,
        chosen.data,
        chosen.objective,
        *chosen.rewards,
        *chosen.judges,
        *chosen.metrics,
        *chosen.leads,
        *optional,
    ):
        if choice is not None:
            _at(plain, choice.key).update(choice.options)
    plain["sampling"] = chosen.sampling
    plain["rollouts"] = chosen.rollouts and chosen.rollouts.model_dump(mode="json")
    return plain


def result(chosen: Chosen) -> dict[str, Any]:
    """What it takes to load the model that a run saved: its part of the resolved document."""
    plain = resolved(chosen)
    return {key: plain[key] for key in ("plugins", "model", "sampling")}


def process_of(plugins: Plugins, model: Part) -> Any:
    """The class of the model's process; None for an unknown model, which is reported where it is picked."""
    try:
        return process_class(plugins.catalogue.find("model", model.type).spec.process)
    except UserError:
        return None


def complete_sampling(process: Any, key: str, given: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """The options complete with defaults, if nothing is wrong with them."""
    if process is None:
        return given
    wrong = options.check_callable(process.Sampling, given)
    faults += [(f"{key}.{path}", message) for path, message in wrong]
    return given if wrong else options.complete_callable(process.Sampling, given)


def build_held_out(chosen: Chosen) -> Source | None:
    """The rows that are not trained on; None when the config names none."""
    if chosen.held_out is None:
        return None
    rows: Source = chosen.held_out.build()
    if len(rows) == 0:
        raise UserError(f"{chosen.document.where('evaluation.data')}: evaluation.data: no rows")
    return rows


def evaluation_prompts(chosen: Chosen) -> list[Prompt]:
    """The first `evaluation.count` prompts to evaluate on; none when the config names none."""
    if chosen.prompts is None:
        return []
    rows: Source = chosen.prompts.build()
    count = min(len(rows), chosen.config.evaluation.count or len(rows))
    if count == 0:
        raise UserError(f"{chosen.document.where('evaluation.prompts')}: evaluation.prompts: no prompts")
    return [rows[i]["prompt"] for i in range(count)]


def _rewards(chosen: Chosen, device: torch.device | str) -> WeightedReward | None:
    if not chosen.rewards:
        return None
    parts = chosen.config.rewards
    checked = [CheckedReward(p.label, c.build(device)) for p, c in zip(parts, chosen.rewards, strict=True)]
    weights, normalize, gates = zip(*((part.weight, part.normalize, part.gate) for part in parts), strict=True)
    return WeightedReward(checked, weights, normalize, gates)


def build_judges(chosen: Chosen, device: torch.device | str = "cpu") -> dict[str, Judge]:
    """The evaluation rewards by name. One that trains or leads is "trained" unless the config says otherwise."""
    lead = chosen.config.evaluation.guidance
    trained = {part.label for part in (*chosen.config.rewards, *(lead.rewards if lead else ()))}
    judges = {}
    for part, choice in zip(chosen.config.evaluation.rewards, chosen.judges, strict=True):
        role = part.role or ("trained" if part.label in trained else "held-out")
        judges[part.label] = Judge(role, CheckedReward(part.label, choice.build(device)))
    return judges


def build_guidance(chosen: Chosen, device: torch.device | str = "cpu") -> Lead | None:
    """What leads the evaluation's samples; None when the config names nothing."""
    part = chosen.config.evaluation.guidance
    return guidance.built(chosen.guidance, part.rewards, chosen.leads, device) if chosen.guidance and part else None


def build_metrics(chosen: Chosen, device: torch.device | str = "cpu") -> dict[str, Metric]:
    """What is counted over the evaluation's samples, by name."""
    asks = any(choice.offer.spec.judge for choice in chosen.metrics)
    judge = chosen.judge.build(device) if chosen.judge and asks else None
    metrics: dict[str, Metric] = {}
    for part, choice in zip(chosen.config.evaluation.metrics, chosen.metrics, strict=True):
        asked = judge if choice.offer.spec.judge else None
        metrics[part.label] = CheckedMetric(part.label, choice.build(device), asked)
    return metrics


def build_objective(chosen: Chosen) -> Objective:
    """Its two functions with their options filled in."""
    spec = chosen.objective.offer.spec
    return options.bind_objective(spec, chosen.objective.options)


def _at(plain: Any, key: str) -> Any:
    for step in key.split("."):
        plain = plain[int(step)] if isinstance(plain, list) else plain[step]
    return plain
