"""The reader: what the command writes is a reward, and a model to begin with; the one that is shipped tells what is false."""

import json
from pathlib import Path

import pytest
import torch

from mmalign.document import dump
from mmalign.document import read as read_yaml
from mmalign.records import Samples
from mmalign_lvlm.models import VisionLanguageModel
from mmalign_lvlm.rewards.segments import SegmentModel
from mmalign_shapes.images import ShapesFeedback
from mmalign_shapes.pretrain import everything, reader

SHIPPED = "mmalign_shapes:assets/reader"


@pytest.fixture(scope="module")
def written() -> list[dict]:
    """Descriptions that no training saw, labelled."""
    rows = ShapesFeedback("held-out", 60, seed=9)
    return [dict(rows[i]) for i in range(len(rows))]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader that has hardly learnt anything, as the command writes it."""
    folder = tmp_path_factory.mktemp("out")
    plain = read_yaml(reader.CONFIG)
    plain["data"]["size"] = plain["evaluation"]["data"]["size"] = 8
    plain["trainer"] |= {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "warmup_steps": 0, "learning_rate": 0.05}
    dump(plain, folder / "few.yaml")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(reader, "CONFIG", folder / "few.yaml")
        everything.pretrain_reader(folder / "assets", seed=3)
    return folder / "assets"


def read(model: SegmentModel, rows: list[dict]) -> list[torch.Tensor]:
    """What it makes of each description's sentences, `[S, K, C]` each."""
    samples = Samples([row["prompt"] for row in rows], [row["sample"] for row in rows])
    return [one.log_probs for one in model.read(samples)]


def test_it_is_half_as_large_and_reads_as_what_was_trained(out: Path, written: list[dict]) -> None:
    trained, kept = (SegmentModel(str(out / where)) for where in ("work/reader/model", "reader"))
    found, expected = (torch.cat(read(model, written[:8])) for model in (kept, trained))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=1e-2)
    with trained.policy.model.reference():
        assert (torch.cat(read(trained, written[:8])) - expected).abs().max() > 0.5
    sizes = [(out / where / "adapter_model.safetensors").stat().st_size for where in ("work/reader/model", "reader")]
    assert sizes[1] < 0.6 * sizes[0]
    figures = json.loads((out / "reader/training.json").read_text())
    assert (figures["seed"], figures["descriptions"]) == (3, 8)


def test_what_is_finished_is_not_trained_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "train", None)
    everything.pretrain_reader(out, seed=3)


def test_it_is_for_the_captioner_beside_it(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        everything, "train_reader", lambda captioner, *_: asked.append(captioner) or out / "work/reader"
    )
    everything.pretrain_reader(tmp_path, seed=3)
    (tmp_path / "captioner").mkdir()
    everything.pretrain_reader(tmp_path, seed=3)
    assert asked == [reader.CAPTIONER, str(tmp_path / "captioner")]
    told = json.loads((tmp_path / "reader/adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == reader.CAPTIONER


def test_what_ended_before_it_was_measured_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, resumed = out / "work/reader/evaluation.json", []
    kept = file.read_text()
    monkeypatch.setattr(reader, "train", lambda _, resume: (resumed.append(resume), file.write_text(kept)))
    file.unlink()
    everything.pretrain_reader(out, seed=3)
    assert resumed == [True]


def test_it_is_a_model_to_begin_with() -> None:
    captioner, begun = (VisionLanguageModel(path) for path in (reader.CAPTIONER, SHIPPED))
    before, after = (dict(model.base.get_decoder().named_parameters()) for model in (captioner, begun))
    same = [name for name in before if "base_layer" in name and after[name].equal(before[name])]
    assert not same


def test_the_shipped_one_tells_what_is_false(written: list[dict]) -> None:
    model = SegmentModel(SHIPPED)
    for k, (kind, least) in enumerate({"existence": 0.95, "attribute": 0.95, "relation": 0.85}.items()):
        said: dict[str, list[bool]] = {}
        for row, found in zip(written, read(model, written), strict=True):
            for segment, told in zip(row["segments"], found[:, k].argmax(-1).tolist(), strict=True):
                right = model.classes[told] == segment.labels[kind]
                said.setdefault(segment.labels[kind], []).append(right)
        recalls = [sum(right) / len(right) for right in said.values()]
        assert sum(recalls) / len(recalls) >= least, kind
