"""The oracle as a reward: what is right is right, and nobody can argue with it by gradient."""

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.records import Samples, Scores
from mmalign_shapes.oracle import judge_batch


class OracleReward:
    """1 for a picture that shows exactly its prompt, 0 for one that does not or of which the oracle is unsure."""

    def __call__(self, samples: Samples) -> Scores:
        """`[B]` of 0 and 1; `dimensions["unsure"]` is 1 where the oracle could not tell. NaN pixels score NaN."""
        try:
            correct, unsure = judge_batch(samples.media, samples.texts)
        except ValueError as error:
            raise UserError(f"the oracle judges pictures of shapes only: {error}") from None
        values = torch.from_numpy(correct).to(samples.media)
        known = torch.isfinite(samples.media).flatten(1).all(dim=1)
        return Scores(torch.where(known, values, torch.nan), {"unsure": _like(unsure, samples)})


def _like(flags: object, samples: Samples) -> Tensor:
    return torch.as_tensor(flags).to(samples.media)
