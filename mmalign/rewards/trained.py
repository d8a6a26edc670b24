"""Reward models that a run trained, as rewards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from mmalign import options, plugins
from mmalign.document import read
from mmalign.errors import UserError, nearest
from mmalign.locations import locate
from mmalign.processes import process_class
from mmalign.records import Media, Samples, Scores
from mmalign.rewards.shared import shared, written


class Scored:
    """What a model that scores gives a sample: the mean of its heads' values, or one of them. `dimensions` holds each.

    policy: the model in its process. head: the name of the one; None is the mean.
    standardize: each head's values less their mean while the model trained, divided by their deviation.
    """

    def __init__(self, policy: Any, head: str | None = None, standardize: bool = False):
        names = policy.heads.names
        if policy.heads.classes:
            raise UserError("its heads tell classes of segments, and give a whole sample no value")
        if head is not None and head not in names:
            raise UserError(f"it has no head '{head}'{nearest(head, names) or '; they are ' + ', '.join(names)}")
        self.policy, self.head, self.standardize = policy, head, standardize

    def to(self, device: torch.device | str) -> Self:
        """Move the weights."""
        self.policy.to(device)
        return self

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]`, and the values by head; NaN for media that are not finite, which a model might read as black."""
        names = self.policy.heads.names
        if len(samples) == 0:
            return Scores(torch.zeros(0), {name: torch.zeros(0) for name in names})
        with self.policy.judging():
            scores = self.policy.scores(self.policy.encode(samples.prompts, self.media(samples)))
        values = self.policy.standardized(scores) if self.standardize else scores
        values = torch.where(samples.finite.to(values.device)[:, None], values, torch.nan)
        dimensions = dict(zip(names, values.unbind(dim=1), strict=True))
        return Scores(values.mean(dim=1) if self.head is None else dimensions[self.head], dimensions)

    def media(self, samples: Samples) -> list[Any]:
        """The samples one by one, as the model is to see them: as it did in training, where it looks at part of them."""
        viewed: Callable[[Samples], Sequence[Media]] | None = getattr(self.policy.model, "viewed", None)
        return list(samples.made if viewed is None else viewed(samples))


class RewardModel(Scored):
    """What a trained reward model gives a sample: the mean of its heads' values, or one of them.

    path: the `model` folder of a run, for example runs/judge/model. The weights it was trained from must still be there.
    head: the name of one head; None is the mean of all.
    standardize: each head's values less their mean while it trained, divided by their deviation, so that they count alike.
    """

    def __init__(self, path: str, head: str | None = None, standardize: bool = False):
        key = ("trained", path, written(Path(locate(path))))
        super().__init__(shared(key, lambda: load(path)), head, standardize)


def load(path: str) -> Any:
    """The model that scores which `save` and `mmalign.yaml` describe in the `model` folder of a run."""
    folder, policy = built(path, "scoring")
    policy.load(folder)
    return policy


def built(path: str, capability: str) -> tuple[Path, Any]:
    """A run's `model` folder and the policy that `mmalign.yaml` in it describes, as it was before the run trained it."""
    folder = Path(locate(path))
    written = folder / "mmalign.yaml"
    if not written.is_file():
        raise UserError(f"{folder} holds no mmalign.yaml: name the `model` folder of a run")
    plain = read(written)
    found = plugins.load(plain["plugins"])
    model = dict(plain["model"])
    spec = found.catalogue.find("model", model.pop("type")).spec
    process = process_class(spec.process)
    if capability not in process.offers:
        offers = ", ".join(sorted(process.offers))
        raise UserError(f"{folder} holds a model of type '{spec.name}', which offers {offers}, but not {capability}")
    return folder, process(spec.load()(**options.parsed(spec, model)), process.Sampling(**plain["sampling"]))
