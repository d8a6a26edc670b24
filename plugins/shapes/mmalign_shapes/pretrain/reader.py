"""The reader: the captioner, taught by mmalign to tell what is false in written descriptions.

Who can describe cannot check yet: asked whether a relation holds, the captioner guesses. Papers begin their reward models with
models that were taught to answer anything about a picture; here they begin with this one.
"""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from mmalign import plugins
from mmalign.compose import choose
from mmalign.config import load
from mmalign.document import read
from mmalign.run import train
from mmalign_shapes.pretrain.data import write_figures

CONFIG = Path(__file__).with_name("reader.yaml")
CAPTIONER = "mmalign_shapes:assets/captioner"


def train_reader(captioner: str, folder: Path, seed: int) -> Path:
    """Train it below `folder` from the captioner at a path, or go on where that was interrupted. Returns the run's folder."""
    run = folder / "reader"
    if _figures(run) is None:
        document = load(CONFIG, [f"model.path={captioner}", f"folder={folder}", f"trainer.seed={seed}"])
        train(choose(document, plugins.load()), resume=run.exists())
    return run


def write_reader(run: Path, out: Path) -> None:
    """The `model` folder of a run in half precision, without the processor, which is the captioner's."""
    unfinished = out.with_name(f"{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in ("adapter_config.json", "heads.json", "heads.safetensors", "mmalign.yaml"):
        shutil.copy(run / "model" / name, unfinished / name)
    matrices = load_file(run / "model" / "adapter_model.safetensors")
    save_file({name: matrix.half() for name, matrix in matrices.items()}, unfinished / "adapter_model.safetensors")
    figures = {"seed": read(run / "config.yaml")["trainer"]["seed"], **(_figures(run) or {})}
    write_figures(unfinished, figures)
    shutil.rmtree(out, ignore_errors=True)
    unfinished.rename(out)


def _figures(run: Path) -> dict[str, float] | None:
    """What was measured when a run ended, or None where it has not."""
    file = run / "evaluation.json"
    found = json.loads(file.read_text(encoding="utf-8")).get("held_out", {}) if file.is_file() else {}
    after = {name: figure.get("after") for name, figure in found.get("metrics", {}).items()}
    return {"descriptions": found["n"], **after} if after and None not in after.values() else None
