"""What single units are worth: how much likelier the reference finds them when it is asked for something good.

c_u = log r(u | better prompt) - log r(u | worse prompt)
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from mmalign.objectives import sides
from mmalign.parts import Batch, Parts
from mmalign.records import LogProbs

BETTER = "{prompt}\nThe answer is helpful, correct, coherent and concise."
WORSE = "{prompt}\nThe answer is unhelpful, wrong, incoherent and verbose."

Template = Annotated[str, Field(pattern=r"\{prompt\}")]
"""What the reference is asked instead of a prompt; `{prompt}` is its text."""


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, better: str, worse: str
) -> tuple[LogProbs, LogProbs, Tensor]:
    """log p and log r of both sides, and c without gradient, `[2B, U]`."""
    state = rng.get_state()
    policy, reference = sides.both(parts.policy, *sides.encoded(parts, batch, rng))
    width = policy.values.shape[1]
    likely, unlikely = (_asked(parts, batch, state, template, width) for template in (better, worse))
    return policy, reference, (likely.values - unlikely.values) * likely.mask * unlikely.mask


@torch.no_grad()
def _asked(parts: Parts, batch: Batch, state: Tensor, template: str, width: int) -> LogProbs:
    """log r of both sides for another prompt at the very draw of the first encoding; 0 where it cuts an answer short."""
    prompts = [replace(prompt, text=template.replace("{prompt}", prompt.text)) for prompt in batch["prompt"]]
    twin = torch.Generator().set_state(state)
    rows, draw = sides.encoded(parts, {**batch, "prompt": prompts}, twin)
    with parts.policy.reference():
        found = parts.policy.log_likelihood(rows, draw)
    missing = (0, width - found.values.shape[1])
    return LogProbs(pad(found.values, missing), pad(found.mask, missing))
