"""The adapter: VideoReward, a vision-language model that rates videos in several dimensions at once. Liu et al. 2025 (Improving
video generation with human feedback), arXiv:2501.13918.

    [video] criteria ... <|VQ_reward|> ... <|MQ_reward|> ... what was asked for ... <|TA_reward|>

Each dimension has a token of its own, whose last hidden state its head reads. The model is causal, so what stands before the
prompt cannot know it: visual and motion quality do not depend on what was asked for.

Where it differs: the heads have a bias, which pairs do not move, for differences alone matter to them; frames are taken by their
timestamps. The authors' own words about quality are not in here: give them as `template` for a model that was trained on them.

transformers and peft are imported when a model is built, so that its options can be read without them.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mmalign.data.sources import conditioned
from mmalign.errors import UserError
from mmalign.processes.scoring import Encoded, Ends, Heads
from mmalign.records import Media, Prompt, Samples
from mmalign_video import videos

TEMPLATE = """Rate this generated video in three ways, each by itself.
Visual quality: is every frame sharp, clean and without faults? <|VQ_reward|>
Motion quality: does everything move evenly and plausibly, without jumps and flicker? <|MQ_reward|>
Text alignment: does the video show what was asked for? What was asked for: {prompt}
Is it so? <|TA_reward|>"""

_DIMENSIONS = Heads(("VQ", "MQ", "TA"))


@dataclass(frozen=True)
class LanguageLora:
    """Low-rank matrices beside linear layers of the language model (arXiv:2106.09685): `W x + alpha / rank * B A x`.

    rank: inner dimension of the matrices. alpha: scale; None is `rank`.
    target_modules: names of the layers that get them. dropout: share of their input that is not seen in training.
    """

    rank: PositiveInt = 64
    alpha: float | None = 128
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


_LORA = LanguageLora()


class LastHidden(nn.Module):
    """A model without its head: what it is given to last hidden states `[B, T, H]`."""

    def __init__(self, base: Any):
        super().__init__()
        self.base = base

    def forward(self, **inputs: Tensor) -> Tensor:
        """Last hidden states `[B, T, H]`."""
        hidden: Tensor = self.base.model(**inputs, use_cache=False).last_hidden_state
        return hidden


class VideoJudge:
    """Rates videos by the last hidden states of a model such as Qwen2-VL, at a token for each dimension.

    path: folder, hub id, or `package:relative/path` in an installed package.
    heads: `names` of the dimensions; the token of one is `<|NAME_reward|>`.
    template: what stands behind the video: `{prompt}` is the prompt's text, and each dimension's token stands there once.
    adapter: LoRA in the language model; None trains all of that.
    vision: train the vision tower and its projector, too, all of their weights.
    dtype: of the frozen weights. What trains is float32.
    frame_rate: frames a second that are looked at. None is all of them, as for frames whose rate nobody knows.
    max_frames: more are not looked at; the last ones are left out.
    max_pixels: of a frame. Larger ones are made smaller, with their shape kept.
    """

    def __init__(
        self,
        path: str,
        *,
        heads: Heads = _DIMENSIONS,
        template: str = TEMPLATE,
        adapter: LanguageLora | None = _LORA,
        vision: bool = False,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        frame_rate: PositiveFloat | None = 2.0,
        max_frames: PositiveInt | None = None,
        max_pixels: PositiveInt = 448 * 448,
    ):
        from mmalign_video.models.backbone import Backbone

        if heads.classes:
            raise UserError("heads.classes: they tell segments of a text apart, and a video has none")
        self.tokens = [f"<|{name}_reward|>" for name in heads.names]
        if wrong := [token for token in self.tokens if template.count(token) != 1]:
            raise UserError(f"template: {wrong[0]} must stand in it once, for its dimension is read there")
        self.backbone = Backbone(path, self.tokens, adapter, vision, getattr(torch, dtype))
        self.network: nn.Module = LastHidden(self.backbone.base)
        self.heads, self.template = heads, template
        self.frame_rate, self.max_frames, self.max_pixels = frame_rate, max_frames, max_pixels
        self.width: int = self.backbone.base.config.get_text_config().hidden_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.backbone.base.device
        return device

    def to(self, device: torch.device | str) -> Self:
        """Move everything."""
        self.backbone.base.to(device)
        return self

    # ---- what is read

    def encode(self, prompts: Sequence[Prompt], media: Sequence[Media], ends: Ends) -> Encoded:
        """Videos and prompts in the template, and where each dimension's token stands. Raises UserError for what is no video."""
        if any(ends):
            raise UserError("this model rates whole videos, but the data hold segments of texts")
        processor = self.backbone.processor
        frames = [self._frames(one) for one in media]
        texts = [self._asked(prompt) for prompt in prompts]
        batch = processor(
            text=[self._rendered(text) for text in texts],
            videos=frames,
            videos_kwargs=self._looked(frames),
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        inputs = {name: value.to(self.device) for name, value in batch.items()}
        ids = processor.tokenizer.convert_tokens_to_ids(self.tokens)
        places = torch.stack([(inputs["input_ids"] == one).int().argmax(dim=1) for one in ids], dim=1)
        return Encoded(inputs, places[:, None])

    def viewed(self, samples: Samples) -> Sequence[Media]:
        """Their frames at the rate that is looked at."""
        return [videos.at_rate(one, samples.frame_rate, self.frame_rate) for one in samples.media]

    def _frames(self, medium: Media) -> Tensor:
        """`[F, 3, H, W]` of 8 bits."""
        found = videos.read(medium, self.frame_rate)[: self.max_frames]
        return (found.detach().float().clamp(0, 1).cpu() * 255).round().byte()

    def _asked(self, prompt: Prompt) -> str:
        if held := [token for token in self.tokens if token in prompt.text]:
            raise UserError(f"prompt '{prompt.text[:60]}' holds {held[0]}, where a rating is read: take it out")
        return conditioned(prompt, self.template, prompt.metadata).text

    def _rendered(self, text: str) -> str:
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        rendered: str = self.backbone.processor.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True
        )
        return rendered

    def _looked(self, frames: Sequence[Tensor]) -> dict[str, Any]:
        """How the processor is to take videos: all frames that it is given, each within the budget of pixels."""
        rate = self.frame_rate or videos.FRAME_RATE
        told = [{"fps": rate, "total_num_frames": len(one), "frames_indices": list(range(len(one)))} for one in frames]
        least = min(self.backbone.processor.video_processor.size["shortest_edge"], self.max_pixels)
        size = {"shortest_edge": least, "longest_edge": self.max_pixels}
        return {"do_sample_frames": False, "video_metadata": told, "size": size, "cap_pixels_per_frame": False}

    # ---- weights

    def recompute_layers(self) -> None:
        """The layers keep their input alone until the backward pass."""
        self.backbone.recompute_layers()

    def reference(self) -> AbstractContextManager[Any]:
        """Nothing is kept of the untouched model: no objective of scores asks for it."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights only, without the heads."""
        return {name: weight.detach() for name, weight in self.backbone.trainable().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take `state_dict`'s weights back."""
        self.backbone.load_state_dict(state)

    def save(self, folder: Path) -> None:
        """LoRA as peft writes it, and all else that trained in `video_reward.safetensors`."""
        self.backbone.save(folder)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote."""
        self.backbone.load(folder)
