"""Encodings are the same to the last bit whether they were kept or not, and what is kept is what was encoded."""

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from mmalign import UserError
from mmalign.data.cache import Store, content, digest, fingerprint
from mmalign.data.encode import encoded_of
from mmalign.objectives import diffusion_dpo
from mmalign.parts import Parts
from mmalign.processes.denoising import DenoisingPolicy, Sampling
from mmalign.processes.encodings import Encodings, Posterior
from mmalign.records import Masked, Prompt
from mmalign.specs import Objective
from unit.toy import ToyModel, paths, prompts, rng


class Module(nn.Linear):
    """An encoder that remembers where it was sent."""

    def __init__(self):
        super().__init__(2, 2)
        self.sent: list[str] = []

    def to(self, device):
        self.sent.append(str(device))
        return self


class Encoding(ToyModel):
    """The toy with files for pictures, an encoder that is not sure, and a count of what it was asked."""

    def __init__(self, size: int = 3):
        super().__init__(paths()["epsilon"])
        torch.manual_seed(1)
        self.asked: list[str] = []
        self.encoders = {"texts": [Module()], "media": [Module()]}
        self.preprocessing = {"size": size}

    def condition(self, texts):
        self.asked += texts
        return super().condition(texts)

    def pixels(self, media):
        return torch.stack([one if isinstance(one, torch.Tensor) else torch.load(one) for one in media]).double()

    def encode(self, pixels):
        self.asked += ["picture"] * len(pixels)
        mean = super().encode(pixels).mean
        return Posterior(mean, 0.1 + mean.abs() / 7)


@pytest.fixture
def batch(tmp_path):
    """Pairs of pictures in files."""
    torch.manual_seed(0)
    files = [tmp_path / f"{i}.pt" for i in range(8)]
    for file in files:
        torch.save(torch.rand(3, 3, 3), file)
    return {"prompt": prompts(4), "chosen": files[:4], "rejected": files[4:]}


def terms(model, batch, encodings=None, visits=3):
    """What a loss is made of, in several visits of one stream."""
    policy = DenoisingPolicy(model, Sampling(3))
    policy.encodings = encodings or policy.encodings
    made, stream = Parts(policy, Objective(len, len), []), rng()
    return [diffusion_dpo.terms(made, batch, stream, prompt_dropout=0.4) for _ in range(visits)]


def kept(model, folder):
    encodings = Encodings(model)
    return encodings, encodings.keep(lambda print_of_model: Store(folder / print_of_model))


def test_kept_and_not_kept_are_equal_to_the_last_bit(batch, tmp_path):
    expected = terms(Encoding(), batch)
    filling, _ = kept(Encoding(), tmp_path)
    first = terms(Encoding(), batch, filling)
    model = Encoding()
    again = terms(model, batch, kept(model, tmp_path)[0])
    for one, other, third in zip(expected, first, again, strict=True):
        assert all(one[name].equal(other[name]) and one[name].equal(third[name]) for name in one)
    assert model.asked == []
    assert not expected[0]["chosen_logratios"].equal(expected[1]["chosen_logratios"])  # each visit draws anew


def test_everything_is_encoded_by_itself_and_once(batch, tmp_path):
    model = Encoding()
    encodings, store = kept(model, tmp_path)
    terms(model, batch, encodings)
    assert sorted(model.asked) == sorted(["", "x", "xx", "xxx", "xxxx"] + ["picture"] * 8)
    assert (store.made, len(list(tmp_path.rglob("*.safetensors")))) == (13, 13)


def test_the_stream_of_a_posterior_is_that_of_one_draw_for_the_whole_batch():
    mean, std = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    assert Posterior(mean, std).sample(rng()).equal(mean + std * torch.randn(3, 2, 4, 4, generator=rng()))
    stream = rng()
    assert Posterior(mean).sample(stream) is mean
    assert stream.get_state().equal(rng().get_state())


def test_what_is_made_on_the_spot_is_not_kept(tmp_path):
    model = Encoding()
    encodings, store = kept(model, tmp_path)
    for _ in range(2):
        encodings.posterior([torch.zeros(3, 3, 3)])
    assert (model.asked, store.made) == (["picture"] * 2, 0)
    with pytest.raises(TypeError):
        content(torch.zeros(1))


def test_pictures_are_known_by_their_content(batch, tmp_path):
    model = Encoding()
    encodings, store = kept(model, tmp_path)
    copied = tmp_path / "copy.pt"
    copied.write_bytes(batch["chosen"][0].read_bytes())
    encodings.fill([], [batch["chosen"][0], copied, copied])
    assert store.made == 1
    torch.save(torch.zeros(3, 3, 3), copied)
    other, store = kept(model, tmp_path)
    assert other.posterior([copied]).mean.eq(-1).all()
    with pytest.raises(UserError, match=r"gone\.pt .*No such file"):
        other.posterior([tmp_path / "gone.pt"])


def test_models_that_encode_otherwise_share_nothing(tmp_path):
    same, other_size, other_weights = Encoding(), Encoding(size=4), Encoding()
    with torch.no_grad():
        other_weights.encoders["media"][0].weight[0, 0] += 1e-6
    folders = [kept(model, tmp_path)[1].folder for model in (Encoding(), same, other_size, other_weights)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    half = nn.Linear(2, 2).to(torch.bfloat16)
    assert fingerprint([half], {}) != fingerprint([half.to(torch.float32)], {})


def test_released_encoders_come_back_for_what_is_not_kept(batch, tmp_path):
    model = Encoding()
    encodings, _ = kept(model, tmp_path)
    encodings.fill(["x"], batch["chosen"])
    encodings.release()
    texts, media = (model.encoders[kind][0].sent for kind in ("texts", "media"))
    assert (texts, media) == (["cpu"], ["cpu"])
    model.device = torch.device("meta")
    encodings.condition(["x"])
    encodings.unconditional(2)  # guidance needs the empty prompt, and the encoder no more
    encodings.posterior(batch["chosen"])
    assert (texts, media) == (["cpu"], ["cpu"])
    model.device = torch.device("cpu")
    encodings.condition(["x", "new", "newer"])
    assert (texts, media) == (["cpu", "cpu"], ["cpu"])


def test_a_file_that_the_disk_cut_short_is_made_again(batch, tmp_path):
    model = Encoding()
    encodings, _ = kept(model, tmp_path)
    whole = encodings.posterior(batch["chosen"]).mean
    for i, file in enumerate(sorted(tmp_path.rglob("*.safetensors"))):
        file.write_bytes(file.read_bytes()[: 40 * i])
    again, store = kept(model, tmp_path)
    assert again.posterior(batch["chosen"]).mean.equal(whole)
    assert store.made == 4
    assert kept(model, tmp_path)[0].posterior(batch["chosen"]).mean.equal(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from mmalign.data import cache
replace = os.replace
def killing(*files):
    if len(list(Path(sys.argv[1]).rglob("*.safetensors"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*files)
cache.os.replace = killing
store = cache.Store(Path(sys.argv[1]))
for i in range(5):
    store.put(cache.digest(str(i)), {"value": torch.full((9,), float(i))})
"""


def test_a_kill_in_the_middle_leaves_whole_entries_alone(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    found = [store.get(digest(str(i))) for i in range(5)]
    assert [value is not None for value in found] == [True, True, False, False, False]
    assert found[1]["value"].eq(1).all()
    assert len(list(tmp_path.rglob(".*.partial"))) == 1
    store.put(digest("2"), {"value": torch.ones(1)})
    assert store.get(digest("2"))["value"].eq(1).all()


def test_bits_come_back_as_they_were(tmp_path):
    tensors = {
        "nan": torch.tensor([float("nan"), -0.0]),
        "half": torch.rand(3, 2).to(torch.bfloat16).T,
        "empty": torch.zeros(0, 4),
    }
    Store(tmp_path).put("ab12", tensors)
    found = Store(tmp_path).get("ab12")
    assert all(found[name].dtype == value.dtype and found[name].shape == value.shape for name, value in tensors.items())
    assert found["half"].equal(tensors["half"])
    assert found["nan"].view(torch.int32).equal(tensors["nan"].view(torch.int32))


def test_a_folder_that_takes_nothing_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache: cannot write into .*file"):
        Store(tmp_path / "file").put("ab12", {"x": torch.ones(1)})


def test_of_a_row_the_model_is_shown_prompts_and_files(tmp_path):
    row = {
        "prompt": Prompt("x", images=["shown"]),
        "chosen": tmp_path / "a",
        "rejected": Masked(b"b", tmp_path / "mask"),
        "label": 1,
        "sample": torch.ones(1),
    }
    assert encoded_of(row) == (["x"], [tmp_path / "a", b"b"], ["shown"])
