"""What one annotator would give a sample, by a reward model that knows several."""

from dataclasses import replace

import torch

from mmalign.errors import UserError, nearest
from mmalign.records import Samples, Scores
from mmalign.rewards.trained import RewardModel


class Annotator(RewardModel):
    """The mixture of a reward model's prototypes that is one annotator's (`pal`, `vpl`). `dimensions` holds each of them.

    path: the `model` folder of a run. name: an annotator whom its `model.heads.annotators` names; "" is a stranger, who likes
    what the prototypes like on average.
    """

    def __init__(self, path: str, name: str = ""):
        super().__init__(path)
        known = self.policy.heads.annotators
        if name and name not in known:
            raise UserError(
                f"{path} knows no annotator '{name}'{nearest(name, known)}; it knows {', '.join(known) or 'none'}"
            )
        self.annotator = name

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Scores:
        """`[B]` and the values by prototype."""
        scores = super().__call__(samples)
        z, _ = self.policy.tastes([self.annotator])
        shares = z[0].softmax(dim=0)
        prototypes = torch.stack(list(scores.dimensions.values()), dim=-1)
        return replace(scores, values=prototypes.to(shares) @ shares)
