"""Adapters: vision-language models of transformers."""

from mmalign_lvlm.models.judge import VisionLanguageJudge
from mmalign_lvlm.models.lora import Lora
from mmalign_lvlm.models.model import VisionLanguageModel

__all__ = ["Lora", "VisionLanguageJudge", "VisionLanguageModel"]
