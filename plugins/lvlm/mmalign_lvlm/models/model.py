"""The adapter: a vision-language model of transformers as a tokens model.

transformers and peft are imported when a model is built, so that its options can be read without them.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.processes.tokens import Choose, Draws, Encoded, Ids
from mmalign.records import Prompt
from mmalign_lvlm.models.engine import Engine, Vllm, check
from mmalign_lvlm.models.lora import Lora
from mmalign_lvlm.models.rows import distinct

_LORA = Lora()
_PIXELS = {"pixel_values": "image", "pixel_values_videos": "video"}
"""What processors name pixels, and what the model calls that which they show."""


class LastHidden(nn.Module):
    """A model without its head: what it is given to last hidden states `[B, T, H]`. The head's logits are made in pieces."""

    def __init__(self, base: Any):
        super().__init__()
        self.base = base

    def forward(self, **inputs: Tensor) -> Tensor:
        """Last hidden states `[B, T, H]`; with `rows` among the inputs, of answers after prompts that are read once."""
        if "rows" in inputs:
            from mmalign_lvlm.models import prefix

            return prefix.hidden(self.base, **inputs)
        hidden: Tensor = self.base.model(**inputs, use_cache=False).last_hidden_state
        return hidden


class VisionLanguageModel:
    """A model that answers in words to pictures, videos and words: LLaVA and all that keeps placeholder tokens for features.

    LLaVA 1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL (as transformers has it), SmolVLM,
    Idefics3 and PaliGemma are tried. Frames of a video go to the processor's own video input, or are several pictures.

    path: folder, hub id, or `package:relative/path` in an installed package; also the `model` folder of a run that trained LoRA,
        whose matrices are merged into what they were trained for, in `dtype`: half precision rounds small changes. The reference
        is the model as it is loaded.
    dtype: of the frozen weights. What trains is float32.
    adapter: LoRA in the language model; None trains all of that and keeps a frozen copy as reference. The vision tower and
        its projector stay frozen, unless the adapter says `vision`.
    max_length: the most tokens that prompt and answer may have together; None is what the model was made for. Longer
        answers are cut and then have no end; a prompt that leaves no room is an error.
    max_prompt_length: the most tokens that a prompt may have; longer ones lose the words that were said first, never a
        token of a picture or of the chat template. None never cuts a prompt.
    max_pixels: of a picture or a frame; larger ones are made smaller, with their shape kept, before the processor sees them.
        Where features grow with a picture, as of Qwen2-VL, it bounds them. None leaves that to the processor.
    vllm: lets vLLM draw the answers. They are other ones than transformers draws from the same seeds, of the same
        distribution, but that top_p counts among the tokens that top_k leaves. Where every token takes a look at the
        reference too, as the opponents of Nash-MD do, transformers still generates. None is without vLLM.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        adapter: Lora | None = _LORA,
        max_length: PositiveInt | None = None,
        max_prompt_length: PositiveInt | None = None,
        max_pixels: PositiveInt | None = None,
        vllm: Vllm | None = None,
    ):
        if vllm is not None:
            check(path, adapter)
        from mmalign_lvlm.models.dialogue import Dialogue
        from mmalign_lvlm.models.loading import load
        from mmalign_lvlm.models.weights import weights_of

        frozen: torch.dtype = getattr(torch, dtype)
        self.name = path
        self.base, self.processor = load(path, torch.float32 if adapter is None else frozen)
        self.base.eval()
        config = self.base.config
        limits = [n for n in (max_length, getattr(config.get_text_config(), "max_position_embeddings", None)) if n]
        most = min(limits, default=None)
        ends = self._ends()
        self.dialogue = Dialogue(self.processor, config.image_token_id, ends, most, max_prompt_length, max_pixels)
        self.weights = weights_of(self.base, adapter, frozen)
        self.network: nn.Module = LastHidden(self.base)
        self._matched: set[str] = set()
        self._untouched = False
        self._recomputes = False
        self._shares: bool | None = None  # known when the processor has made something of a prompt
        drawn = (path, dtype, self.dialogue, self.weights, self._unsayable())
        self.engine = Engine(vllm, *drawn) if vllm is not None else None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.base.device
        return device

    def to(self, device: torch.device | str) -> Self:
        """Move everything, the reference included."""
        self.base.to(device)
        self.weights.to(device)
        return self

    # ---- likelihood

    def tokenize(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text as an answer to its prompt, the end included."""
        return [self.dialogue.tokenize(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[Ids]) -> Encoded:
        """Prompts followed by answers, padded on the right, which a causal model does not see.

        Prompts that several answers follow are read once, where that can be.
        """
        once = not self._recomputes and self._can_share(prompts)
        encoded = (self.dialogue.encode_once if once else self.dialogue.encode)(prompts, responses)
        ids, mask = encoded.ids.to(self.device), encoded.mask.to(self.device)
        return Encoded(self._placed(encoded.inputs), ids, mask)

    @property
    def hidden_size(self) -> int:
        """How wide a hidden state is."""
        size: int = self.base.config.get_text_config().hidden_size
        return size

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Last hidden states `[B, T, H]`."""
        hidden: Tensor = self.network(**inputs)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[N, V]`."""
        head = self.base.get_output_embeddings()
        logits: Tensor = head(hidden.to(head.weight.dtype))
        # Gemma 2, on which PaliGemma 2 builds, bounds its logits.
        cap = getattr(self.base.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    # ---- samples

    def generate(self, prompts: Sequence[Prompt], choose: Choose, max_new_tokens: int) -> list[list[int]]:
        """One answer a prompt. Placeholders of pictures are never said."""
        from mmalign_lvlm.models.generation import generated

        ends, pad = self.dialogue.ends, self.dialogue.pad
        if self.engine is not None and isinstance(choose, Draws):
            told = self.dialogue.told(prompts, max_new_tokens)
            said = self.engine.generate(told, choose, self.device, self._untouched)
        else:
            asked = self._asked(prompts, max_new_tokens)
            said = generated(self.base, asked, choose, max_new_tokens, ends, pad, self._unsayable())
        return [self.dialogue.until_end(ids) for ids in said]

    def decode(self, responses: Sequence[Ids]) -> list[str]:
        """The texts of answers."""
        return self.dialogue.decode(responses)

    # ---- weights

    def recompute_layers(self) -> None:
        """The language model's layers keep their input alone until the backward pass."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        self._recomputes = True  # which keeps no keys and values to go on from
        self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in self.base.get_decoder().modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # of the layer alone: what is inside stays without dropout

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model answers as if it was untouched."""
        usual = self.base, self.network, self._untouched
        with self.weights.reference() as frozen:
            self._untouched = True
            if frozen is not None:
                self.base, self.network = frozen, LastHidden(frozen)
            try:
                yield
            finally:
                self.base, self.network, self._untouched = usual

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights only."""
        return self.weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        self.weights.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """The result as peft or transformers writes it, and the processor beside it."""
        self.weights.save(folder)
        self.processor.save_pretrained(folder)

    # ---- inside

    def _ends(self) -> list[int]:
        """Ids that end an answer, the tokenizer's own first: that is the one which data get."""
        known = self.base.generation_config.eos_token_id
        ends = [self.processor.tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])]
        found = list(dict.fromkeys(end for end in ends if end is not None))
        if not found:
            raise UserError(f"model {self.name} knows no token that ends an answer: set eos_token in its tokenizer")
        return found

    def _unsayable(self) -> list[int]:
        """Ids that are no answer. A placeholder may lie beyond the words that the head knows."""
        words = self.base.get_output_embeddings().weight.shape[0]
        ids = {*self.dialogue.placeholders.values(), *({self.dialogue.pad} - set(self.dialogue.ends))}
        return sorted(one for one in ids if one < words)

    def _asked(self, prompts: Sequence[Prompt], needed: int) -> dict[str, Any]:
        """What `generated` goes on from. A prompt that several answers are drawn to is read once, where that can be."""
        from mmalign_lvlm.models.generation import read_once

        if not self._can_share(prompts):
            return self._placed(self.dialogue.asked(prompts, needed))
        shown, numbers = distinct(prompts)
        return read_once(self.base, self._placed(self.dialogue.asked(shown, needed)), numbers)

    def _can_share(self, prompts: Sequence[Prompt]) -> bool:
        """Whether there are prompts to be read once for several answers, and the model is one that can."""
        shown, _ = distinct(prompts)
        if len(shown) < len(prompts) and self._shares is None:
            from mmalign_lvlm.models.prefix import can_be_shared

            self._shares = can_be_shared(self.base, self.dialogue.told(shown[:1])[0].row)
        return len(shown) < len(prompts) and bool(self._shares)

    def _placed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the model's device, pixels in the model's precision, and checked once that pictures and videos fit."""
        placed = {
            name: value.to(self.device, self.base.dtype if name in _PIXELS else None) for name, value in inputs.items()
        }
        for name in _PIXELS.keys() & placed.keys() - self._matched:
            self._check_features(placed, _PIXELS[name])
            self._matched.add(name)
        return placed

    @torch.no_grad()
    def _check_features(self, inputs: Mapping[str, Tensor], kind: str) -> None:
        """As many placeholders as features, or every row would be read in the wrong place."""
        read = getattr(self.base.model, f"get_{kind}_features")
        takes = inspect.signature(read).parameters
        shown = {name: value for name, value in inputs.items() if name in takes}
        found = read(**shown, return_dict=True).pooler_output
        features = sum(one.shape[:-1].numel() for one in found)
        placeholder = getattr(self.base.config, f"{kind}_token_id")
        placeholders = int((inputs["input_ids"] == placeholder).sum())
        if features != placeholders:
            raise UserError(
                f"model {self.name}: its processor keeps {placeholders} tokens for {kind}s that have {features} "
                "features: patch_size, vision_feature_select_strategy, num_additional_image_tokens or what else the "
                "processor counts by in processor_config.json must fit the model's config.json"
            )
