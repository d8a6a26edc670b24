"""Reward models that a run trained, as rewards."""

from pathlib import Path
from typing import Any, Self

import torch

from mmalign import options, plugins
from mmalign.document import read
from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.processes import process_class
from mmalign.records import Samples, Scores


class RewardModel:
    """What a trained reward model gives a sample: the mean of its heads' values. `dimensions` holds each of them.

    path: the `model` folder of a run, for example runs/judge/model. The weights it was trained from must still be there.
    """

    def __init__(self, path: str):
        self.policy = load(path)
        if self.policy.heads.classes:
            raise UserError(f"{path}: its heads tell classes of segments, and give a whole sample no value")

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.policy.to(device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]` means and the values by head."""
        names = self.policy.heads.names
        if len(samples) == 0:
            return Scores(torch.zeros(0), {name: torch.zeros(0) for name in names})
        with self.policy.judging():
            scores = self.policy.scores(self.policy.encode(samples.prompts, list(samples.made)))
        return Scores(scores.mean(dim=1), dict(zip(names, scores.unbind(dim=1), strict=True)))


def load(path: str) -> Any:
    """The model that scores which `save` and `mmalign.yaml` describe in the `model` folder of a run."""
    folder = Path(locate(path))
    written = folder / "mmalign.yaml"
    if not written.is_file():
        raise UserError(f"{folder} holds no mmalign.yaml: name the `model` folder of a run that trained a reward model")
    plain = read(written)
    found = plugins.load(plain["plugins"])
    model = dict(plain["model"])
    spec = found.catalogue.find("model", model.pop("type")).spec
    process = process_class(spec.process)
    if "scoring" not in process.offers:
        raise UserError(f"{folder} holds a model of type '{spec.name}', which makes samples and scores none")
    policy = process(spec.load()(**options.parsed(spec, model)), process.Sampling(**plain["sampling"]))
    policy.load(folder)
    return policy
