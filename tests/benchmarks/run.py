"""`make bench`: what the loop and the hooks cost over the same mathematics in bare PyTorch. Prints, asserts nothing.

Steps of both kinds take turns in one process, on the same weights and data, so that a machine that slows down slows both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mmalign import compose, config, loop, plugins, run
from mmalign.engine import Engine

CONFIG = Path(__file__).parents[2] / "configs" / "shapes" / "refl.yaml"


def prepared(folder: str) -> run.Run:
    """The ReFL run on shapes, ready for its first step, without evaluation."""
    overrides = [f"folder={folder}", "evaluation={}", "trainer.checkpoint_every=null", "trainer.steps=1000000"]
    document = config.load(CONFIG, overrides)
    chosen = compose.choose(document, plugins.load())
    engine = Engine(chosen.config.trainer)
    target = run.run_folder(chosen.config)
    target.mkdir(parents=True)
    made = run.Run(chosen, target, engine, compose.build(chosen, engine.device), ({}, {}))
    run._start(made)
    made.hook.mmalign_run_start(run=made)
    return made


def with_mmalign(made: run.Run) -> None:
    """One step as the loop does it."""
    metrics = loop.update(made)
    made.step += 1
    made.hook.mmalign_step_end(run=made, step=made.step, metrics=metrics)
    made.hook.mmalign_should_stop(run=made, step=made.step, metrics=metrics)


def bare(made: run.Run) -> None:
    """The same mathematics, and nothing else."""
    batch, trainer = next(made.feed), made.config.trainer
    terms = made.parts.objective.terms(made.parts, batch, made.stream("draws"))
    made.parts.objective.loss(**terms).values.mean().backward()
    torch.nn.utils.clip_grad_norm_(made.engine.parameters, trainer.max_grad_norm)
    made.engine.optimizer.step()
    made.engine.optimizer.zero_grad(set_to_none=True)
    made.parts.reward.drain()


def seconds(step: Callable[[run.Run], None], made: run.Run) -> float:
    """How long one step takes."""
    start = time.perf_counter()
    step(made)
    return time.perf_counter() - start


def main() -> None:
    """Print medians and the ratio, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        made = prepared(folder)
        pairs = []
        for number in range(steps + 1):
            # The plan of a step may be random: both kinds get the same draws.
            state = made.stream("draws").get_state()
            ours = seconds(with_mmalign, made)
            made.stream("draws").set_state(state)
            theirs = seconds(bare, made)
            pairs += [(ours, theirs)] if number else []
    ratio = statistics.median(a / b for a, b in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"mmalign {ours:.3f} s/step, bare PyTorch {theirs:.3f} s/step, median ratio {ratio:.3f} ({steps} pairs)")


if __name__ == "__main__":
    main()
