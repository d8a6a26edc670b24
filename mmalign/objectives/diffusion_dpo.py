"""Diffusion-DPO. Wallace et al. 2023, arXiv:2311.12908; as in the authors' code (SalesforceAIResearch/DiffusionDPO).

    L = -log σ( -β/2 [ (m_w - m_l) - (r_w - r_l) ] )
    m = mean_D (output_θ(x_t) - target)²,  r = the same for the reference,  (t, noise) shared by winner and loser

This is `dpo` where log p = -m/2, so that the ½ and the mean over dimensions live in the model's likelihood.

Where it differs from the paper:
1. m is a mean over dimensions, not a sum (as in the code). So β is 5000, which as a factor of the sum is 5000 / D; the
   factor T of the paper's bound is part of it.
2. m is taken against what the network predicts (noise, v, x0 or velocity) without weights; the code knows noise only.
3. The reference is the same network without its adapter, not a second copy.
4. Pictures are not flipped or cropped at random.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from mmalign.objectives import dpo, paired
from mmalign.parts import Batch, Parts
from mmalign.records import Loss
from mmalign.specs import Objective


def loss(chosen_logratios: Tensor, rejected_logratios: Tensor, *, beta: PositiveFloat = 5000.0) -> Loss:
    """chosen_logratios, rejected_logratios: (r - m) / 2, `[B]`."""
    return dpo.loss(chosen_logratios, rejected_logratios, beta=beta)


def terms(
    parts: Parts, batch: Batch, rng: torch.Generator, *, prompt_dropout: Annotated[float, Field(ge=0, le=1)] = 0.2
) -> dict[str, Tensor]:
    """prompt_dropout: how often a pair is seen without its prompt, so that guidance keeps working."""
    dropped = (torch.rand(len(batch["prompt"]), generator=rng) < prompt_dropout).tolist()
    prompts = [
        replace(prompt, text="") if drop else prompt for drop, prompt in zip(dropped, batch["prompt"], strict=True)
    ]
    return paired.terms(parts, {**batch, "prompt": prompts}, rng)


objective = Objective(loss, terms)
