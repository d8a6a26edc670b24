"""A tiny LLaVA with random weights and a real processor, saved once a session and loaded as a real one is."""

import os
from pathlib import Path

# No test asks the hub for anything; transformers reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmalign_lvlm.models import Lora, VisionLanguageModel

SIDE, PATCH = 16, 4
FEATURES = (SIDE // PATCH) ** 2
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = ["USER", "ASSISTANT", "SYSTEM", ":", "a", "two", "red", "blue", "green", "circle", "square"]
WORDS += ["what", "is", "this", "there", "no", "yes", "and"]
TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] | upper }} : "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT : {% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny LLaVA."""
    folder = tmp_path_factory.mktemp("llava")
    save(folder)
    return folder


def save(folder: Path, patch_size: int = PATCH, heads: int = 2) -> None:
    """Write model and processor. patch_size: what the processor believes. heads: of attention."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": heads}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=SIDE, patch_size=PATCH, projection_dim=32),
        text_config=LlamaConfig(
            **small,
            vocab_size=len(vocabulary),
            max_position_embeddings=96,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_id=vocabulary["<image>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        # Random weights say nearly the same of everything: let them differ.
        for weight in model.parameters():
            weight.data *= 3.0 if weight.ndim > 1 else 1.0
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)


def build(path: Path, **options: object) -> VisionLanguageModel:
    return VisionLanguageModel(str(path), **{"adapter": Lora(rank=4), **options})


@torch.no_grad()
def perturbed(model: VisionLanguageModel) -> VisionLanguageModel:
    """The same model, its trainable weights moved away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.weights.trainable().values():
        weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def picture_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A red and a blue picture of odd sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in {"red": (40, 24), "blue": (17, 30)}.items():
        Image.new("RGB", size, name).save(folder / f"{name}.png")
    return [folder / "red.png", folder / "blue.png"]
