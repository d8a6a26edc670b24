"""Real runs of the toy language model: the loop, the feed and the engine are those of every run, without a folder's worth of
plugins around them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import torch

from mmalign import hookspecs, options, run
from mmalign.builtin.parts import mmalign_objectives
from mmalign.config import Config, Rollouts
from mmalign.engine import Engine
from mmalign.parts import Parts
from mmalign.records import Prompt, Samples
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit.toy_tokens import policy

PROMPTS = [Prompt("ab"), Prompt("cdefg"), Prompt("a"), Prompt("gg")]


def letters(samples: Samples) -> torch.Tensor:
    """How many of its letters are a `g`."""
    return torch.tensor([float(text.count("g")) for text in samples.responses])


def made(
    folder: Path,
    objective: str,
    given: dict[str, Any] | None = None,
    restored: Any = ({}, {}),
    plugins: tuple[Any, ...] = (),
    rewards: Any = None,
    rollouts: dict[str, Any] | None = None,
    model: Any = None,
    **trainer: Any,
) -> run.Run:
    """A run that is ready to train. given: the objective's options. restored: what a checkpoint of it held. model: the policy,
    if not the toy language model."""
    (spec,) = (spec for spec in mmalign_objectives() if spec.name == objective)
    trainer = {"steps": 4, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 0.0, **trainer}
    plain = {"name": "toy", "model": "m", "data": "d", "objective": objective, "trainer": trainer}
    manager = pluggy.PluginManager("mmalign")
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        manager.register(plugin)
    chosen = SimpleNamespace(
        objective=SimpleNamespace(offer=SimpleNamespace(spec=spec)),
        config=Config.model_validate(plain),
        plugins=SimpleNamespace(hook=manager.hook),
        rollouts=Rollouts(**{"prompts": 4, "samples_per_prompt": 4, "batch_size": 6, **(rollouts or {})}),
    )
    torch.manual_seed(0)
    toy = model or policy(max_new_tokens=5)
    if "values" in spec.needs:
        toy.add_critic()
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    reward = rewards or WeightedReward([CheckedReward("letters", letters)], [1.0])
    parts = Parts(toy, options.bind_objective(spec, given or {}), rows, reward)
    ready = run.Run(chosen, folder, Engine(chosen.config.trainer), parts, restored)
    ready.step = restored[0].get("step", 0)
    run._start(ready)
    return ready
