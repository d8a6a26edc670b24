"""The layout in which VideoAlign publishes VideoReward, as a model of ours.

    model_config.json                         what it was trained with; `inference_config` holds mean and deviation by dimension
    checkpoint-N/model.pth                    all weights, or
    checkpoint-N/adapter_model.safetensors    the LoRA, and
    checkpoint-N/non_lora_state_dict.pth      all else that trained

Of several checkpoints the latest is taken. Weights have the names of earlier versions of transformers below those of peft; the
head, `rm_head`, has one row for each dimension or one for all of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmalign.errors import UserError
from mmalign.processes.scoring import Heads, ScoringPolicy
from mmalign_video.models.judge import TEMPLATE, LanguageLora, VideoJudge

_CONFIG = "model_config.json"


def is_published(folder: Path) -> bool:
    """Whether a folder holds a model in that layout."""
    return (folder / _CONFIG).is_file()


def load(folder: Path, base: str | None = None, template: str = TEMPLATE, dtype: str = "float32") -> ScoringPolicy:
    """The model, rating as it was trained. Raises UserError for what is missing or does not fit.

    base: the model that was trained, if not the one that the layout names. template: the words it was trained with.
    """
    told = _told(folder / _CONFIG)
    settings, lora, data = told["model_config"], told["peft_lora_config"], told["data_config"]
    names = (data["eval_dim"],) if isinstance(data["eval_dim"], str) else tuple(data["eval_dim"])
    if not settings.get("use_special_tokens"):
        raise UserError(f"{folder}: this model has no tokens for its dimensions (use_special_tokens)")
    judge = VideoJudge(
        base or settings["model_name_or_path"],
        heads=Heads(names),
        template=template,
        adapter=LanguageLora(lora["lora_r"], lora["lora_alpha"]) if lora["lora_enable"] else None,
        vision=not settings["freeze_vision_tower"],
        dtype=dtype,  # type: ignore[arg-type]
        frame_rate=data.get("fps") or 2.0,
        max_pixels=data.get("max_frame_pixels") or 448 * 448,
    )
    policy = ScoringPolicy(judge, ScoringPolicy.Sampling())
    checkpoint = _latest(folder)
    weights = {_ours(name): weight for name, weight in _weights(checkpoint).items()}
    policy.load_state_dict({**_trained(judge, weights, checkpoint), **_heads(weights, names, told, checkpoint)})
    return policy


def _told(file: Path) -> dict[str, Any]:
    """What a model was trained with. Raises UserError for a file that does not tell it."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error}): download it again") from None
    kinds = {"model_config": "use_special_tokens", "peft_lora_config": "lora_enable", "data_config": "eval_dim"}
    if missing := [f"{part}.{name}" for part, name in kinds.items() if name not in (told.get(part) or {})]:
        raise UserError(f"{file} lacks {', '.join(missing)}: is it the file that VideoAlign publishes?")
    found: dict[str, Any] = told
    return found


def _latest(folder: Path) -> Path:
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise UserError(f"{folder} holds no checkpoint-N beside its {_CONFIG}: download all of it")
    return found[-1]


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """All that was saved, by name."""
    whole, lora, rest = (checkpoint / n for n in ("model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth"))
    if whole.is_file():
        found: dict[str, Tensor] = torch.load(whole, map_location="cpu", weights_only=True, mmap=True)
        return found
    if not lora.is_file() or not rest.is_file():
        raise UserError(f"{checkpoint} holds neither {whole.name} nor {lora.name} with {rest.name}: download all of it")
    # peft leaves the adapter's name out of the names in files.
    matrices = {re.sub(r"(lora_[AB])\.weight$", r"\1.default.weight", k): v for k, v in load_file(lora).items()}
    return {**torch.load(rest, map_location="cpu", weights_only=True), **matrices}


def _ours(name: str) -> str:
    """A weight's name as transformers has it now."""
    name = name.removeprefix("base_model.model.")
    name = re.sub(r"^visual\.", "model.visual.", name)
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


def _trained(judge: VideoJudge, weights: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Tensor]:
    """The weights that train in ours; those of the tokens are rows of the whole embedding."""
    first = judge.backbone.processor.tokenizer.convert_tokens_to_ids(judge.tokens[0])
    found = {}
    for name in judge.state_dict():
        place = name.replace("embed_tokens.own", "embed_tokens.weight")
        if place not in weights:
            raise UserError(f"{checkpoint} lacks {place}: is `base` the model that was trained?")
        rows = slice(first, first + len(judge.tokens)) if place != name else slice(None)
        found[name] = weights[place][rows]
    return found


def _heads(
    weights: Mapping[str, Tensor], names: Sequence[str], told: Mapping[str, Any], checkpoint: Path
) -> dict[str, Tensor]:
    """The heads, and mean and deviation of what they say, where the layout tells."""
    if "rm_head.weight" not in weights:
        raise UserError(f"{checkpoint} lacks rm_head.weight, the head that rates")
    rows, known = weights["rm_head.weight"].float(), told.get("inference_config") or {}
    mean = torch.tensor([float(known.get(f"{name}_mean", 0.0)) for name in names])
    deviation = torch.tensor([float(known.get(f"{name}_std", 1.0)) for name in names])
    moments = torch.stack([torch.ones_like(mean), mean, mean**2 + deviation**2])
    return {
        "heads.weight": rows.expand(len(names), -1),
        "heads.bias": torch.zeros(len(names)),
        "heads.moments": moments,
    }
