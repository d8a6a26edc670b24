"""The captioner: a small LLaVA that describes pictures in several sentences, of which about three statements in ten are false.

It is trained on true descriptions first, then on some whose statements are false, a share of each type; so it knows better
than it says. Alignment is to bring that out. Its vision tower learns before it to answer what is where, and rests then.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmalign_shapes import render
from mmalign_shapes.descriptions import describe, hallucinated
from mmalign_shapes.images import REQUEST, scenes
from mmalign_shapes.pretrain.data import batches, floats, track
from mmalign_shapes.pretrain.generator import learned_merges
from mmalign_shapes.pretrain.questions import Asked, Mix, dialogue
from mmalign_shapes.pretrain.update import update
from mmalign_shapes.scenes import COLORS, RELATIONS, SHAPES, SIZE, Scene, Thing, holds, kinds
from mmalign_shapes.statements import NUMBERS

WIDTH = 128
PATCH = 8
PATCHES = SIZE // PATCH

BATCH_SIZE = 32
TOWER_BATCH_SIZE = 64

KINDS = kinds()
ANSWERS = [len(COLORS) + 1, len(SHAPES) + 1, PATCHES + 1, PATCHES + 1, *(len(KINDS) + 1 for _ in RELATIONS)]
"""How many answers there are to each question of `what_is_where`."""

_PAD, _START, _END, _IMAGE = "<pad>", "<s>", "</s>", "<image>"
_WORDS = f"""USER: ASSISTANT: {REQUEST} Is this true of the picture: "There "The "It ." Answer
yes or no. Yes No in image? There there is are a an another the A It it picture of and, shape shapes
{" ".join([*COLORS, *SHAPES, *RELATIONS, *NUMBERS])}"""
_TEMPLATE = (
    f"{_START}{{% for message in messages %}}{{% if not loop.first %}} {{% endif %}}{{{{ message['role'] | upper }}}}:"
    f"{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}} {_IMAGE}"
    "{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    f"{{% if message['role'] == 'assistant' %}}{_END}{{% endif %}}{{% endfor %}}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Shown:
    """Scenes and their pictures `[N, 3, 64, 64]` as bytes."""

    scenes: Sequence[Scene]
    pictures: Tensor

    def __len__(self) -> int:
        return len(self.scenes)


def draw(split: str, size: int, seed: int) -> Shown:
    """Scenes of a split, drawn."""
    drawn = scenes(split, size, seed)
    chunks = [render.pixels(drawn[i : i + 500]) for i in range(0, size, 500)]
    return Shown(drawn, (torch.cat(chunks) * 255).round().to(torch.uint8))


def new_processor() -> LlavaProcessor:
    """Pictures of 64 x 64 pixels in 64 patches; a chat template in LLaVA's manner."""
    side = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        pictures,
        new_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Every word of descriptions and of the template is one token, with the blank before it; any other text is some."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges = learned_merges(sorted({piece for piece, _ in pieces.pre_tokenize_str(" ".join(_WORDS.split()))}), end="")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [_PAD, _START, _END, _IMAGE, *alphabet, *("".join(merge) for merge in merges)]
    words = Tokenizer(models.BPE({token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges))
    words.pre_tokenizer, words.decoder = pieces, decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=_PAD, bos_token=_START, eos_token=_END)
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE]})
    return tokenizer


def new_tower() -> CLIPVisionModel:
    """Untrained, four layers."""
    return CLIPVisionModel(_tower_config())


def new_captioner(tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA with this tower, which is frozen, and an untrained language model of four layers."""
    config = LlavaConfig(
        vision_config=_tower_config(),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=PATCHES**2,
        # The tower's last layer: all of it was trained to tell what the language model asks.
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model


def what_is_where(shown: Sequence[Scene]) -> Tensor:
    """`[B, 64, 8]`: of the thing on each patch its colour, shape, column and row, and for each relation what it has that
    relation to, the nearest of several; 0 where there is none.
    """
    told = torch.zeros(len(shown), PATCHES, PATCHES, len(ANSWERS), dtype=torch.long)
    middle = (torch.arange(PATCHES) + 0.5) * PATCH
    for scene, patches in zip(shown, told, strict=True):
        for thing in scene.things:
            inside = ((middle - thing.y).abs() < thing.radius)[:, None] & ((middle - thing.x).abs() < thing.radius)
            name = (list(COLORS).index(thing.kind.color), list(SHAPES).index(thing.kind.shape))
            itself = [answer + 1 for answer in (*name, int(thing.x / PATCH), int(thing.y / PATCH))]
            patches[inside] = torch.tensor(itself + [_other(scene, thing, relation) for relation in RELATIONS])
    return told.flatten(1, 2)


def _other(scene: Scene, thing: Thing, relation: str) -> int:
    """Which kind, counted from 1, the nearest thing is to which this one has a relation; 0 is none."""
    others = [other for other in scene.things if other != thing and holds(thing, other, relation)]
    nearest = min(others, key=lambda other: math.hypot(other.x - thing.x, other.y - thing.y), default=None)
    return 0 if nearest is None else KINDS.index(nearest.kind) + 1


def what_is_shown(shown: Sequence[Scene]) -> Tensor:
    """`[B, 1, 35]`: 1 for each kind of thing, then for each shape, that is anywhere in the picture."""
    found = [[kind in scene.kinds for kind in KINDS] for scene in shown]
    forms = [[any(kind.shape == shape for kind in scene.kinds) for shape in SHAPES] for scene in shown]
    return torch.cat([torch.tensor(found), torch.tensor(forms)], dim=1)[:, None].float()


def train_tower(
    tower: CLIPVisionModel, shown: Shown, steps: int, seed: int, learning_rate: float, anywhere: bool = False
) -> CLIPVisionModel:
    """Patches learn to say what is there, `what_is_where`. The tower itself is trained.

    anywhere: each patch also learns what is in the picture, `what_is_shown`.
    """
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, sum(ANSWERS) + anywhere * (len(KINDS) + len(SHAPES)))
    weights = [*tower.train().requires_grad_(True).parameters(), *head.parameters()]
    optimizer, schedule = _optimizer(weights, learning_rate, steps)
    for indices in track(batches(len(shown), TOWER_BATCH_SIZE, steps, seed), "tower", steps):
        patches = tower(_pixels(shown, indices)).last_hidden_state[:, 1:]
        told = head(patches)
        scenes = [shown.scenes[i] for i in indices.tolist()]
        parts = zip(told[..., : sum(ANSWERS)].split(ANSWERS, dim=-1), what_is_where(scenes).unbind(-1), strict=True)
        loss = torch.stack([F.cross_entropy(a.flatten(0, 1), r.flatten()) for a, r in parts]).sum()
        if anywhere:
            seen = told[..., sum(ANSWERS) :]
            right = what_is_shown(scenes).expand_as(seen)
            loss = loss + F.binary_cross_entropy_with_logits(seen, right, reduction="none").sum(dim=-1).mean()
        update(loss, weights, optimizer, schedule)
    return tower.eval()


def train_captioner(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    shown: Shown,
    steps: int,
    seed: int,
    learning_rate: float,
    mix: Mix,
    share: float = 0.0,
) -> LlavaForConditionalGeneration:
    """Cross entropy of descriptions, of whose statements a share is false, and of answers whether something is true, which
    always are right: one half of each batch is described, the other asked about. The tower rests.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model.train().model.vision_tower.requires_grad_(False)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer, schedule = _optimizer(weights, learning_rate, steps)

    def described(scene: Scene) -> list[Asked]:
        return [(REQUEST, str(hallucinated(describe(scene, rng), scene, share, rng)))]

    def loss(indices: Tensor, talk: Callable[[Scene], list[Asked]]) -> Tensor:
        ids, labels = rows(processor, [talk(shown.scenes[i]) for i in indices.tolist()])
        found: Tensor = model(input_ids=ids, pixel_values=_pixels(shown, indices), labels=labels).loss
        return found

    for indices in track(batches(len(shown), BATCH_SIZE, steps, seed), "captioner", steps):
        half, other = indices.chunk(2)
        update(
            loss(half, described) + loss(other, lambda scene: dialogue(scene, rng, mix)), weights, optimizer, schedule
        )
    return model.eval().requires_grad_(True)


def rows(processor: LlavaProcessor, dialogues: Sequence[Sequence[Asked]]) -> tuple[Tensor, Tensor]:
    """Ids `[B, T]` of dialogues about a picture each, padded on the right; and the same where only answers and ends count."""
    ids, labels = zip(*(_row(processor, dialogue) for dialogue in dialogues), strict=True)
    return pad_sequence(ids, True, float(processor.tokenizer.pad_token_id)), pad_sequence(labels, True, -100.0)


def _row(processor: LlavaProcessor, dialogue: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    ids: list[int] = []
    labels: list[int] = []
    for question, answer in dialogue:
        asked = (
            request(processor, question)
            if not ids
            else processor.tokenizer(f" USER: {question} ASSISTANT:")["input_ids"]
        )
        said = processor.tokenizer(f" {answer}{_END}")["input_ids"]
        ids += [*asked, *said]
        labels += [*[-100] * len(asked), *said]
    return torch.tensor(ids), torch.tensor(labels)


def request(processor: LlavaProcessor, question: str = REQUEST) -> list[int]:
    """Ids of a question about a picture, up to where the answer begins."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids: list[int] = processor.tokenizer(text.replace(_IMAGE, _IMAGE * PATCHES**2))["input_ids"]
    return ids


@torch.no_grad()
def answer(model: Any, processor: LlavaProcessor, pictures: Tensor, temperature: float) -> list[str]:
    """What the model says of byte pictures `[B, 3, 64, 64]`; the likeliest at temperature 0."""
    ids = torch.tensor(request(processor)).expand(len(pictures), -1)
    drawn: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    whole = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=floats(pictures) * 2 - 1,
        max_new_tokens=64,
        **(drawn or {"do_sample": False}),
    )
    texts: list[str] = processor.tokenizer.batch_decode(whole[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _tower_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )


def _pixels(shown: Shown, indices: Tensor) -> Tensor:
    """Pictures as the processor gives them."""
    return floats(shown.pictures[indices]) * 2 - 1


def _optimizer(weights: Sequence[Tensor], rate: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-2)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
