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
from mmalign.document import dump, read
from mmalign.run import train

CONFIG = Path(__file__).with_name("reader.yaml")
CAPTIONER = "mmalign_shapes:assets/captioner"


def train_reader(captioner: str, folder: Path, seed: int) -> Path:
    """Train it below `folder` from the captioner at a path, or go on where that was interrupted. Returns the run's folder."""
    run = folder / "reader"
    if not (run / "model" / "mmalign.yaml").is_file():
        document = load(CONFIG, [f"model.path={captioner}", f"folder={folder}", f"trainer.seed={seed}"])
        train(choose(document, plugins.load()), resume=run.exists())
    return run


def write_reader(run: Path, out: Path) -> None:
    """The `model` folder of a run in half precision, as one that was trained from the captioner which is shipped."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("heads.json", "heads.safetensors"):
        shutil.copy(run / "model" / name, out / name)
    matrices = load_file(run / "model" / "adapter_model.safetensors")
    save_file({name: matrix.half() for name, matrix in matrices.items()}, out / "adapter_model.safetensors")
    adapter = json.loads((run / "model" / "adapter_config.json").read_text(encoding="utf-8"))
    adapter["base_model_name_or_path"] = CAPTIONER
    (out / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    described = read(run / "model" / "mmalign.yaml")
    described["model"]["path"] = CAPTIONER
    dump(described, out / "mmalign.yaml")
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    after = {name: figure["after"] for name, figure in found["held_out"]["metrics"].items()}
    figures = {"seed": read(run / "config.yaml")["trainer"]["seed"], "descriptions": found["held_out"]["n"], **after}
    (out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
