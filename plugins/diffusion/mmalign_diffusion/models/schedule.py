"""From a diffusers scheduler to a path: how clean latents and noise are mixed, and at which times a sampler steps."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from mmalign.errors import UserError
from mmalign.maths.paths import VP, Flow, Path
from mmalign_diffusion.models.families import Family

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


def path_of(scheduler: Any, family: Family) -> Path:
    """The path that a pipeline's scheduler describes, whichever sampler it is."""
    settings = scheduler.config
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return _flow(FlowMatchEulerDiscreteScheduler.from_config(settings), family)
    if settings.get("prediction_type") == "flow_prediction":
        return Flow(_spaced(settings.num_train_timesteps, settings.get("flow_shift", 1.0)), family.time_sampling)
    if settings.get("prediction_type") in PREDICTIONS and "beta_schedule" in settings:
        # CogVideoX shifts the signal-to-noise ratio of its schedule.
        ddim = CogVideoXDDIMScheduler if "snr_shift_scale" in settings else DDIMScheduler
        return _vp(ddim.from_config(settings), PREDICTIONS[settings.prediction_type])
    raise UserError(
        f"scheduler {type(scheduler).__name__} describes neither a flow nor an epsilon, v or sample prediction"
    )


def _flow(scheduler: Any, family: Family) -> Flow:
    return Flow(lambda steps: family.sigmas(scheduler, steps), time_sampling=family.time_sampling)


def _spaced(longest: int, shift: float) -> Callable[[int], Tensor]:
    """The noise levels of UniPC and DPM++: evenly spaced to the first training time, which is left out, and shifted."""

    def sigmas(steps: int) -> Tensor:
        even = torch.linspace(1, 1 / longest, steps + 1)[:-1]
        return shift * even / (1 + (shift - 1) * even)

    return sigmas


def _vp(scheduler: Any, prediction: str) -> VP:
    """DDIM over the pipeline's noise schedule, each step to the next of its times.

    Two things of diffusers' DDIM are left out: clipping x0, which is for models of pixels, and steps of fixed length
    where times are spaced otherwise ("linspace").
    """

    def timesteps(steps: int) -> Tensor:
        longest = scheduler.config.num_train_timesteps
        if steps > longest:
            raise UserError(f"sampling.steps: {steps} is more than the {longest} steps of the noise schedule")
        scheduler.set_timesteps(steps)
        # "trailing" spacing may yield one time too many, below zero, by rounding.
        chosen: Tensor = scheduler.timesteps[:steps]
        return chosen

    return VP(
        scheduler.alphas_cumprod,
        prediction=prediction,
        final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
        timesteps=timesteps,
    )
