"""Rows that a language model makes itself: the same collecting as for pictures, with prompts kept whole."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mmalign import UserError, compose, config, plugins
from mmalign.config import Collect
from mmalign.data.collect import KEEPING, collect
from mmalign.errors import BadRow
from mmalign.objectives import rwr, sft
from mmalign.parts import Parts
from mmalign.records import Prompt
from mmalign.rewards.weighted import CheckedReward, WeightedReward
from unit.toy_tokens import policy

PROMPTS = [Prompt("ab", {"id": 7}, images=("a.png",)), Prompt("c", {"id": 8})]


def worth_of(text):
    return float(sum(map(ord, text)))


def write(samples, folder):
    paths = [folder / f"{i}.txt" for i in range(len(samples))]
    for path, text in zip(paths, samples.responses, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def run_in(folder, worth=worth_of):
    """What collecting sees of a run."""
    reward = CheckedReward("worth", lambda samples: torch.tensor([worth(text) for text in samples.responses]))
    return SimpleNamespace(
        folder=folder,
        is_main=True,
        parts=SimpleNamespace(
            policy=policy(), data=[{"prompt": prompt} for prompt in PROMPTS], reward=WeightedReward([reward], [1.0])
        ),
        hook=SimpleNamespace(mmalign_write_samples=write),
        engine=SimpleNamespace(wait=lambda: None),
        config=SimpleNamespace(evaluation=SimpleNamespace(batch_size=8), trainer=SimpleNamespace(seed=0)),
        warn=print,
    )


def collected(run, options, **how):
    return collect(run, options, run.parts.data, **how)


def test_a_collected_pair_keeps_the_whole_prompt_and_is_not_made_twice(tmp_path):
    run, options = run_in(tmp_path), Collect(samples_per_prompt=6)
    made, pairs = run.parts.policy, collected(run, options)
    assert [pairs[i]["prompt"] for i in range(len(pairs))] == PROMPTS
    assert all(worth_of(pairs[i]["chosen"].read_text()) > worth_of(pairs[i]["rejected"].read_text()) for i in range(2))
    encoded = made.encode([pairs[0]["prompt"]], [pairs[0]["chosen"]], torch.Generator())
    assert encoded.mask.sum() == len(pairs[0]["chosen"].read_text()) + 1
    run.parts.policy = None
    assert collected(run, options)[1] == pairs[1]


def test_the_best_of_n_is_the_chosen_one_of_the_pairs(tmp_path):
    """RAFT: the same samples, of which only the best is learned from."""
    (tmp_path / "a").mkdir()
    pairs = collected(run_in(tmp_path / "a"), Collect(samples_per_prompt=6))
    run = run_in(tmp_path)
    rows = collected(run, Collect(samples_per_prompt=6, keep="best"))
    assert [rows[i]["sample"].read_text() for i in range(2)] == [pairs[i]["chosen"].read_text() for i in range(2)]
    assert [rows[i]["score"] for i in range(2)] == [worth_of(rows[i]["sample"].read_text()) for i in range(2)]
    assert [rows[i]["prompt"] for i in range(len(rows))] == PROMPTS
    batch = {name: [rows[i][name] for i in range(2)] for name in ("prompt", "sample")}
    assert sft.loss(**sft.terms(Parts(run.parts.policy, None, []), batch, torch.Generator())).values.shape == (2,)


def test_all_samples_keep_their_scores_and_know_their_rivals(tmp_path):
    run = run_in(tmp_path)
    rows = collected(run, Collect(samples_per_prompt=3, keep="all"))
    assert [rows[i]["prompt"] for i in range(len(rows))] == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert rows[1]["rivals"] == [rows[i]["score"] for i in range(3)]
    batch = {name: [rows[i][name] for i in (1, 4)] for name in rows[0]}
    terms = rwr.terms(Parts(run.parts.policy, None, []), batch, torch.Generator())
    assert terms["rivals"].tolist() == [rows[1]["rivals"], rows[4]["rivals"]]


class Rows(list):
    """Prompts, of which None stands for one that cannot be read."""

    def __getitem__(self, index):
        if (prompt := super().__getitem__(index)) is None:
            raise BadRow(f"row {index + 1}: no prompt")
        return {"prompt": prompt}


def test_a_bad_prompt_is_left_out_and_counted_and_changes_no_other_sample(tmp_path, capsys):
    folders = [tmp_path / name for name in ("good", "bad", "strict")]
    good, bad, strict = (run_in(folder) for folder in folders if folder.mkdir() is None)
    good.parts.data = Rows([PROMPTS[0], Prompt("d"), PROMPTS[1]])
    bad.parts.data = strict.parts.data = Rows([PROMPTS[0], None, PROMPTS[1]])
    whole = collected(good, Collect(keep="best"))
    rows = collected(bad, Collect(keep="best"), skip_bad=True)
    assert "1 bad rows were left out, for example row 2: no prompt" in capsys.readouterr().out
    assert [rows[i]["prompt"] for i in range(len(rows))] == PROMPTS
    assert [rows[i]["sample"].read_text() for i in range(2)] == [whole[i]["sample"].read_text() for i in (0, 2)]
    assert [rows[i]["sample"].parent.name for i in range(2)] == ["00000", "00002"]
    with pytest.raises(BadRow, match="row 2: no prompt"):
        collected(strict, Collect(keep="best"))
    assert not list(tmp_path.glob("strict/*/*.jsonl"))


def test_prompts_that_are_all_bad_are_refused(tmp_path):
    with pytest.raises(UserError, match="every row is bad, for example row 1: no prompt"):
        collect(run_in(tmp_path), Collect(), Rows([None, None]), skip_bad=True)


@pytest.mark.parametrize(
    ("keep", "scores", "expected"),
    [
        ("best", [1.0, 3.0, 3.0], [1]),
        ("best", [2.0, 2.0, 2.0], [0]),
        ("best", [float("nan"), 1.0, 0.0], [1]),
        ("best", [float("nan")] * 3, []),
        ("all", [1.0, float("nan"), 3.0], [0, 2]),
    ],
)
def test_which_samples_are_kept(keep, scores, expected):
    for scale, shift in ((1, 0), (5, -3)):  # only the order of scores matters
        kept = KEEPING[keep].rows(torch.tensor(scores) * scale + shift, Collect(keep=keep))
        assert [columns["sample"] for columns, _ in kept] == expected


def test_what_scores_too_low_is_left_out_but_stays_a_rival():
    scores = torch.tensor([0.5, 2.0, 1.0, float("nan")])
    assert [c["sample"] for c, _ in KEEPING["best"].rows(scores, Collect(keep="best", least_score=1.0))] == [1]
    assert KEEPING["best"].rows(scores, Collect(keep="best", least_score=2.5)) == []
    kept = KEEPING["all"].rows(scores, Collect(keep="all", least_score=1.0))
    assert [(columns["sample"], others["rivals"]) for columns, others in kept] == [(1, [0.5, 2, 1]), (2, [0.5, 2, 1])]


PLUGIN = """
from mmalign import ModelSpec, RewardSpec, hookimpl

@hookimpl
def mmalign_models():
    yield ModelSpec("letters", lambda: None, process="tokens")

@hookimpl
def mmalign_rewards():
    yield RewardSpec("words", lambda: None)
"""

CONFIG = """
name: own
model: letters
data: {{type: text-prompts, path: nowhere.jsonl}}
rewards: [words]
collect: {{keep: {keep}}}
objective: {{type: {objective}}}
trainer: {{steps: 1}}
"""


@pytest.mark.parametrize(
    ("keep", "objective", "missing"),
    [
        ("pairs", "dpo", ""),
        ("best", "sft", ""),
        ("best", "superhf", ""),
        ("all", "rwr", ""),
        ("pairs", "rwr", "'sample', 'score'; 'collect' has 'chosen', 'prompt', 'rejected': see collect.keep"),
        ("best", "dpo", "'chosen', 'rejected'; 'collect' has 'prompt', 'sample', 'score': see collect.keep"),
    ],
)
def test_what_is_kept_must_be_what_the_objective_needs(keep, objective, missing, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(CONFIG.format(keep=keep, objective=objective), encoding="utf-8")
    (tmp_path / "letters.py").write_text(PLUGIN, encoding="utf-8")
    found = plugins.load([str(tmp_path / "letters.py")], installed=False)
    with nullcontext() if not missing else pytest.raises(UserError, match=f"needs rows with {missing}"):
        assert compose.choose(config.load(file), found).config.collect.keep == keep


def test_when_nothing_can_be_kept_the_user_is_told(tmp_path):
    with pytest.raises(UserError, match=r"tie, differ by less than collect\.least_gap, .* or have no score"):
        collected(run_in(tmp_path, lambda text: float("nan")), Collect(keep="best"))
    assert Collect(keep="best").columns == {"prompt", "sample", "score"}


def test_a_gap_is_for_pairs(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(CONFIG.format(keep="best", objective="sft"), encoding="utf-8")
    with pytest.raises(UserError, match=r"collect\.least_gap: goes with `keep: pairs`, not with `keep: best`"):
        config.load(file, ["collect.least_gap=0.1"])
    with pytest.raises(
        UserError, match=r"collect\.least_score: goes with `keep: best` or `keep: all`, not with `keep: pairs`"
    ):
        config.load(file, ["collect.keep=pairs", "collect.least_score=0.1"])
