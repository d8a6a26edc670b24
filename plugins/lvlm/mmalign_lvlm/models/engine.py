"""Answers that vLLM draws, with weights that follow those of the model. vLLM is imported when the first is drawn.

It is told each prompt as the processor is, with pictures, and gives token ids, which are taken as they are. How likely they
were is not asked of it: the network that trains tells that itself.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from mmalign.errors import UserError
from mmalign.locations import locate
from mmalign.processes.tokens import Draws
from mmalign.streams import GlobalRandom
from mmalign_lvlm.models.lora import Lora

if TYPE_CHECKING:
    from mmalign_lvlm.models.dialogue import Dialogue, Told
    from mmalign_lvlm.models.weights import Weights

_SHOWN = 60
_TEMPERATURES = (0.01, 2.0)
"""Beyond these vLLM refuses, or takes another one; at 0 it takes the likeliest token."""


@dataclass(frozen=True)
class Vllm:
    """Answers are drawn by vLLM, in the process that trains and on the same device.

    memory: share of the device's memory that it takes, for weights of its own and for what it keeps of what it has read.
    """

    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3


def check(path: str, adapter: Lora | None) -> None:
    """Raises UserError for what is known to fail before anything is loaded."""
    if find_spec("vllm") is None:
        raise UserError("model.vllm: vLLM is not installed: pip install 'mmalign-lvlm[vllm]', or leave model.vllm out")
    from mmalign_lvlm.models.loading import is_adapter  # which imports transformers

    if is_adapter(path):
        raise UserError(f"model.vllm: {path} holds LoRA, and vLLM begins with a whole model: leave out model.vllm")
    if adapter is not None and adapter.vision:
        raise UserError("model.vllm: vLLM takes no matrices in a vision tower: leave adapter.vision out, or model.vllm")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("model.vllm: vLLM draws for a run of one process: start one, or leave model.vllm out")


class Engine:
    """Draws answers by vLLM.

    path, dtype: as of `vlm`. never: ids that are not said. weights: what trains, as loaded from `path` when this is made. They
        are given to vLLM when answers are drawn after they changed: all of the language model, with LoRA's matrices merged in.
    """

    def __init__(
        self,
        options: Vllm,
        path: str,
        dtype: str,
        dialogue: "Dialogue",
        weights: "Weights",
        never: Sequence[int],
    ):
        self.path = path
        self.dialogue = dialogue
        self.weights = weights
        self._never = {one: float("-inf") for one in never}
        self._arguments = {"dtype": dtype, "gpu_memory_utilization": options.memory}
        self._llm: Any = None
        self._untouched = self._held = weights.fingerprint()
        # vLLM reads these when it is imported: to take weights as they are it must not be a process of its own, and its log
        # would go to where results are printed.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

    def generate(self, told: Sequence["Told"], draws: Draws, device: torch.device, untouched: bool) -> list[list[int]]:
        """One answer a prompt, its end included where it was said.

        device: where the model is. untouched: whether the weights of before training answer.
        """
        params = self._params(draws)
        prompts = {id(one): self._prompt(one) for one in told}
        with torch.autocast(device.type, enabled=False):  # its precision is its own
            self._llm = self._llm or self._started(device)
            self._follow(untouched)
            found = self._llm.generate([prompts[id(one)] for one in told], params, use_tqdm=False)
        for one, output in zip(told, found, strict=True):
            self._check_read(one, output.prompt_token_ids)
        return [list(output.outputs[0].token_ids) for output in found]

    # ---- what vLLM is asked

    def _prompt(self, told: "Told") -> dict[str, Any]:
        """Ids with one placeholder a picture, in whose place vLLM puts as many as there are features; and the pictures."""
        ids, media = self.dialogue.unexpanded(told.prompt)
        if "videos" in media:
            raise UserError(
                f"prompt '{told.prompt.text[:_SHOWN]}': model.vllm draws answers to pictures, not to videos: leave it out"
            )
        shown = {"multi_modal_data": {"image": media["images"][0]}} if "images" in media else {}
        return {"prompt_token_ids": ids, **shown}

    def _params(self, draws: Draws) -> list[Any]:
        """How each answer is drawn. Only the ends that the model knows here are ends."""
        from vllm import SamplingParams

        how = draws.sampling
        if how.temperature > 0 and not _TEMPERATURES[0] <= how.temperature <= _TEMPERATURES[1]:
            raise UserError(f"sampling.temperature: vLLM takes 0, or {_TEMPERATURES[0]} to {_TEMPERATURES[1]}")
        return [
            SamplingParams(
                seed=seed,
                max_tokens=how.max_new_tokens,
                temperature=how.temperature,
                top_p=how.top_p,
                top_k=how.top_k,
                stop_token_ids=self.dialogue.ends,
                ignore_eos=True,
                logit_bias=self._never,
                detokenize=False,
            )
            for seed in draws.seeds
        ]

    def _check_read(self, told: "Told", read: Sequence[int]) -> None:
        """What vLLM reads must be what trains."""
        if list(read) != told.row["input_ids"][0].tolist():
            raise UserError(
                f"prompt '{told.prompt.text[:_SHOWN]}' is {told.length} tokens to model {self.path} and {len(read)} to "
                "vLLM, or others: vLLM reads this model's pictures in another way; leave model.vllm out"
            )

    # ---- weights

    def _started(self, device: torch.device) -> Any:
        """vLLM with the weights of before training."""
        from vllm import LLM

        random = GlobalRandom()
        state = random.state_dict()  # which vLLM would seed
        try:
            return LLM(
                locate(self.path),
                max_model_len=self.dialogue.limit,
                limit_mm_per_prompt={"video": 0},
                generation_config="vllm",  # none: what `_params` leaves open is neutral
                enforce_eager=device.type == "cpu",  # graphs pay on an accelerator
                **self._arguments,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"model.vllm: vLLM cannot load {self.path}: {' '.join(str(error).split())}") from None
        finally:
            random.load_state_dict(state)

    def _follow(self, untouched: bool) -> None:
        """From here on vLLM's weights are today's, or those of before training."""
        now = self._untouched if untouched else self.weights.fingerprint()
        if now != self._held:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self.weights.whole(untouched)})
            engine = self._llm.llm_engine  # what it has read was read with other weights
            engine.reset_prefix_cache()
            engine.reset_mm_cache()
            engine.reset_encoder_cache()
            self._held = now
