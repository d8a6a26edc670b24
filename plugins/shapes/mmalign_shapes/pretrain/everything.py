"""All of it in order: autoencoder, generator, its own pictures, CLIP; the captioner, and the reader that it is taught to be; the
generator of videos, whose parts are an autoencoder, a reader and a denoiser. One seed; three hours on two cores.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, DiffusionPipeline, StableDiffusionPipeline, WanTransformer3DModel
from transformers import CLIPVisionModel, LlavaForConditionalGeneration, UMT5EncoderModel

from mmalign_shapes import grammar
from mmalign_shapes.pretrain import video, video_vae
from mmalign_shapes.pretrain.captioner import (
    draw,
    new_captioner,
    new_processor,
    new_tower,
    train_captioner,
    train_tower,
)
from mmalign_shapes.pretrain.clip import Shown, label, save_clip, train_clip
from mmalign_shapes.pretrain.data import make_world, track, write_figures
from mmalign_shapes.pretrain.generator import sample, train_generator
from mmalign_shapes.pretrain.measure import measure_captioner, measure_clip, measure_generator, measure_video
from mmalign_shapes.pretrain.questions import EVEN, SHAPES_FIRST, THINGS_FIRST
from mmalign_shapes.pretrain.reader import CAPTIONER, train_reader, write_reader
from mmalign_shapes.pretrain.vae import decode, train_vae
from mmalign_shapes.prompts import captions

T = TypeVar("T")

SCENES = 24_000
VAE_STEPS = 3_000
PICTURES = 4_000
CLIP_STEPS = 1_400

DESCRIBED, UNSEEN = 10_000, 256
TOWER_STEPS = 1_000
LOOKING = ((2_000, 1.5e-3, EVEN), (1_500, 1e-3, EVEN), (900, 1e-3, SHAPES_FIRST))
"""Updates, rate and questions while the tower tells what is where: what is there and how things lie is learnt last."""
WIDE_STEPS, TRUE_STEPS = 300, 1_000
FALSE_STEPS = 500
FALSE = 0.25
"""Share of the statements that are false in the captioner's last training. What it does not see adds to that."""

SEEN_VIDEOS, VIDEOS = 3_200, 4_000
"""How many videos the autoencoder learns from, and how many the generator."""
VIDEO_VAE_STEPS = 3_000

_BATCH = 64
_GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0)
_SAMPLING_STEPS = (6, 8, 10, 14)


def pretrain_all(out: Path, seed: int) -> None:
    """Train everything and write it below `out`, each checkpoint with a `training.json` of what was measured.

    What is finished already is read again from `out/work`, so an interrupted run goes on where it was.
    """
    pretrain_pictures(out, seed)
    pretrain_captioner(out, seed)
    pretrain_reader(out, seed)
    pretrain_video(out, seed)


def pretrain_pictures(out: Path, seed: int) -> None:
    """The generator, `sd`, and the CLIP that judges pictures, `clip`."""
    world, unseen = make_world(SCENES, seed), make_world(500, seed + 999)
    vae = finished(out / "work/vae", AutoencoderKL.from_pretrained, lambda: train_vae(world, VAE_STEPS, seed))
    vae.eval().requires_grad_(False)
    pipeline = finished(
        out / "work/sd",
        StableDiffusionPipeline.from_pretrained,
        lambda: train_generator(world, vae, seed),
    )
    pipeline.vae.requires_grad_(False)
    write_pipeline(pipeline, out / "sd", {"seed": seed, **measure_generator(pipeline, unseen, seed)})
    generated = generate(pipeline, PICTURES, seed)
    clip = train_clip(world, generated, pipeline.vae, pipeline.tokenizer, CLIP_STEPS, seed)
    save_clip(clip, pipeline.tokenizer, out / "clip")
    write_figures(out / "clip", {"seed": seed, **measure_clip(clip, pipeline, seed)})


def pretrain_captioner(out: Path, seed: int) -> None:
    """The model that describes pictures, `captioner`: its tower, then true descriptions, then some that are partly
    false; and all the while what to answer when asked whether something is true.

    That something is nowhere is hard to find by looking at every place, so in the end the tower tells of each place what is
    anywhere, too. Told so from the start, the language model never learns to look: colours and relations stay at chance.
    """
    shown, unseen = draw("train", DESCRIBED, seed), draw("held-out", UNSEEN, seed)
    processor, work, load = new_processor(), out / "work", LlavaForConditionalGeneration.from_pretrained
    torch.manual_seed(seed)
    tower = finished(
        work / "tower",
        CLIPVisionModel.from_pretrained,
        lambda: train_tower(new_tower(), shown, TOWER_STEPS, seed, 1.5e-3),
    )
    torch.manual_seed(seed)
    model = new_captioner(tower, processor.tokenizer)
    for number, (steps, rate, mix) in enumerate(LOOKING):
        train = partial(train_captioner, model, processor, shown, steps, seed + number, rate, mix)
        model = finished(work / f"captioner-looking-{number}", load, train)
    wide = finished(
        work / "tower-wide",
        CLIPVisionModel.from_pretrained,
        lambda: train_tower(tower, shown, WIDE_STEPS, seed + 1, 5e-4, anywhere=True),
    )
    model.model.vision_tower.load_state_dict(wide.state_dict())
    model = finished(
        work / "captioner-true",
        load,
        lambda: train_captioner(model, processor, shown, TRUE_STEPS, seed + len(LOOKING), 1e-3, THINGS_FIRST),
    )
    knows = measure_captioner(model, processor, unseen, seed)
    model = finished(
        work / "captioner",
        load,
        lambda: train_captioner(model, processor, shown, FALSE_STEPS, seed + 1, 5e-4, THINGS_FIRST, FALSE),
    )
    figures = {"seed": seed, "before_false_descriptions": knows, **measure_captioner(model, processor, unseen, seed)}
    write_captioner(model, processor, out / "captioner", figures)


def pretrain_reader(out: Path, seed: int) -> None:
    """The model that tells what is false in descriptions, `reader`: LoRA for the captioner in `out`, or else the shipped one."""
    own = out / "captioner"
    write_reader(train_reader(str(own) if own.is_dir() else CAPTIONER, out / "work", seed), out / "reader")


def pretrain_video(out: Path, seed: int) -> None:
    """The generator of videos, `wan`: its autoencoder, its reader, then its denoiser."""
    work, tokenizer = out / "work", video.new_video_tokenizer()
    vae = finished(
        work / "video-vae",
        AutoencoderKLWan.from_pretrained,
        lambda: video_vae.train_vae(video_vae.joined(video_vae.draw(SEEN_VIDEOS, seed)), VIDEO_VAE_STEPS, seed),
    )
    vae.eval().requires_grad_(False)
    reader = finished(
        work / "video-reader",
        UMT5EncoderModel.from_pretrained,
        lambda: video.train_reader(tokenizer, video.READING_STEPS, seed),
    )
    reader.eval().requires_grad_(False)
    transformer = finished(
        work / "video-transformer",
        WanTransformer3DModel.from_pretrained,
        lambda: video.train_transformer(
            reader, tokenizer, video_vae.encoded(vae, video_vae.draw(VIDEOS, seed + 1)), seed, video.PHASES
        ),
    )
    pipe = video.pipeline(vae, reader, tokenizer, transformer.eval().requires_grad_(False))
    unseen = video_vae.joined(video_vae.draw(UNSEEN, seed + 999, shaky=0.0))
    write_pipeline(pipe, out / "wan", {"seed": seed, **measure_video(pipe, unseen, seed)}, ("transformer", "vae"))


def finished(folder: Path, load: Callable[[Path], T], make: Callable[[], T]) -> T:
    """What `folder` holds, or else what `make` makes, which is then kept there."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        made: Any = make()
        made.save_pretrained(unfinished)
        unfinished.rename(folder)
    return load(folder)


def write_pipeline(
    pipeline: DiffusionPipeline, folder: Path, figures: dict[str, Any], large: Sequence[str] = ("unet", "vae")
) -> None:
    """Save the large parts in half precision, which the oracle cannot tell from single; they load as single."""
    for part in large:
        getattr(pipeline, part).half()
    pipeline.save_pretrained(folder)
    for part in large:
        getattr(pipeline, part).float()
    for file in (folder / "model_index.json", *(folder / part / "config.json" for part in large)):
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)  # where it was read from on this machine
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    write_figures(folder, figures)


def write_captioner(model: Any, processor: Any, folder: Path, figures: dict[str, Any]) -> None:
    """Save the model in half precision and its processor; it loads as single where that is asked for."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    write_figures(folder, figures)


def generate(pipeline: StableDiffusionPipeline, size: int, seed: int) -> Shown:
    """The generator's own pictures, under many settings, labelled by the oracle."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    prompts = rng.choices(captions("train"), k=size)
    latents, pictures = [], []
    for start in track(range(0, size, _BATCH), "generating", size // _BATCH):
        texts = [grammar.say(prompt) for prompt in prompts[start : start + _BATCH]]
        made = sample(pipeline, texts, rng.choice(_SAMPLING_STEPS), rng.choice(_GUIDANCE), generator)
        latents.append(made)
        with torch.no_grad():
            pictures.append(decode(pipeline.vae, made))
    shown = torch.cat(pictures)
    return Shown(torch.cat(latents), shown, prompts, label(shown))
