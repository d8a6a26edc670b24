"""The judge of pictures: heads on a tiny CLIP, by the very process and objectives that train judges of answers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close
from typer.testing import CliRunner

from mmalign.cli import app
from mmalign.document import dump
from mmalign.errors import UserError
from mmalign.processes.scoring import Heads, ScoringPolicy
from mmalign.records import Prompt, Samples
from mmalign.rewards.ensemble import Ensemble
from mmalign.rewards.trained import RewardModel
from mmalign_diffusion.models.judge import ClipJudge
from mmalign_diffusion.rewards.openclip import OpenClip

PROMPTS = [Prompt("a red circle"), Prompt("a blue square"), Prompt("")]

CONFIG = """
name: judge
folder: {folder}/runs
model: {{type: clip-reward, path: {clip}, train: {train}}}
data: {{type: {data}, path: {folder}/rows.jsonl}}
objective: {objective}
evaluation: {{data: {{type: {data}, path: {folder}/rows.jsonl}}}}
trainer: {{steps: 12, batch_size: 4, learning_rate: {rate}}}
"""


def judge(clip_folder: Path, **options: object) -> ScoringPolicy:
    made = ClipJudge(path=str(clip_folder), **{"heads": Heads(("quality", "fit")), **options})
    return ScoringPolicy(made, ScoringPolicy.Sampling())


def pictures(n: int = 3) -> list[torch.Tensor]:
    return list(torch.rand(n, 3, 40, 40, generator=torch.Generator().manual_seed(0)))


def test_the_heads_read_both_embeddings_and_their_product(clip_folder: Path) -> None:
    policy, clip = judge(clip_folder), OpenClip("", "", str(clip_folder))
    image, text = clip.images(torch.stack(pictures())), clip.texts([prompt.text for prompt in PROMPTS])
    seen = torch.cat([image, text, image * text * 768**0.5], dim=1) * 768**0.5
    encoded = policy.encode(PROMPTS, pictures())
    assert_close(policy.scores(encoded), policy.headed.linear(seen), atol=1e-4, rtol=1e-4)
    features = policy.model.network(**encoded.inputs)[:, 0]
    assert_close((features[:, 2 * 768 :]).mean(1), F.cosine_similarity(image, text), atol=1e-5, rtol=1e-5)
    alone = policy.scores(policy.encode(PROMPTS[1:2], pictures()[1:2]))
    assert_close(alone, policy.scores(encoded)[1:2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train", ["heads", "everything"])
def test_what_trains_and_comes_back(clip_folder: Path, tmp_path: Path, train: str) -> None:
    policy = judge(clip_folder, train=train)
    policy.scores(policy.encode(PROMPTS, pictures())).sum().backward()
    moved = {name.partition(".")[0] for name, weight in policy.network.named_parameters() if weight.grad is not None}
    assert moved == {"heads": {"linear"}, "everything": {"linear", "backbone"}}[train]
    with torch.no_grad():
        for weight in policy.network.parameters():
            if weight.requires_grad:
                weight *= 1.1
    expected = policy.scores(policy.encode(PROMPTS, pictures()))
    policy.save(tmp_path)
    for bring_back in (lambda fresh: fresh.load(tmp_path), lambda fresh: fresh.load_state_dict(policy.state_dict())):
        fresh = judge(clip_folder, train=train)
        bring_back(fresh)
        assert_close(fresh.scores(fresh.encode(PROMPTS, pictures())), expected)


def test_as_a_reward_it_keeps_what_rewards_promise(clip_folder: Path, tmp_path: Path) -> None:
    policy = judge(clip_folder)
    policy.save(tmp_path)
    model = {"type": "clip-reward", "path": str(clip_folder), "heads": {"names": ["quality", "fit"]}}
    dump({"plugins": [], "model": model, "sampling": {}}, tmp_path / "mmalign.yaml")
    for reward in (RewardModel(str(tmp_path)), Ensemble([str(tmp_path)] * 2)):
        media = torch.stack(pictures())
        scores = reward(Samples(PROMPTS, media)).values
        order = [2, 0, 1]
        assert_close(reward(Samples([PROMPTS[i] for i in order], media[order])).values, scores[order])
        media[1, 0, 3, 3] = torch.nan
        spoilt = reward(Samples(PROMPTS, media)).values
        assert spoilt.isnan().tolist() == [False, True, False]
        assert_close(spoilt[[0, 2]], scores[[0, 2]])
        assert reward(Samples([], media[:0])).values.shape == (0,)


def test_what_it_cannot_judge(clip_folder: Path) -> None:
    with pytest.raises(UserError, match="a picture has none"):
        judge(clip_folder, heads=Heads(("a",), ("good", "bad")))
    with pytest.raises(UserError, match="the data hold texts"):
        judge(clip_folder).encode(PROMPTS[:1], ["a red circle"])


def train(config: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("objective", "data", "trains", "rate"),
    [("bradley-terry", "preferences", "heads", 0.03), ("reward-regression", "ratings", "everything", 0.001)],
)
def test_a_run(clip_folder: Path, tmp_path: Path, objective: str, data: str, trains: str, rate: float) -> None:
    for name in ("red", "blue", "green"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    asked = [("a red circle", "red", "blue"), ("a blue square", "blue", "green"), ("a green cross", "green", "red")]
    if data == "preferences":
        rows = [{"prompt": text, "chosen": f"{a}.png", "rejected": f"{b}.png"} for text, a, b in asked]
        rows.append({"prompt": "a cross", "chosen": "red.png", "rejected": "green.png", "tie": True})
    else:
        rows = [{"prompt": t, "sample": f"{c}.png", "rating": 2.0 * (c == a)} for t, a, b in asked for c in (a, b)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "judge.yaml"
    config.write_text(
        CONFIG.format(folder=tmp_path, clip=clip_folder, objective=objective, data=data, train=trains, rate=rate)
    )
    train(config)
    run = tmp_path / "runs" / "judge"
    before, after = (json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines())
    assert after["loss"] < 0.5 * before["loss"]
    if data == "preferences":
        assert after["accuracy"] == 1
        assert after["undecided"] == 0.25
    else:
        assert after["error"] < before["error"]
    reward = RewardModel(str(run / "model"))
    side = torch.stack([torch.tensor(rgb)[:, None, None].expand(3, 32, 32) for rgb in ([1.0, 0, 0], [0, 0, 1.0])])
    right, wrong = reward(Samples([Prompt("a red circle")] * 2, side)).values
    assert right > wrong
