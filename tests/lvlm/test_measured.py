"""Metrics through the command line: counted, judged, printed and written."""

import json
from pathlib import Path

from command_line import here as mmalign

CONFIG = """
name: small
folder: {folder}/runs
plugins: [./judge.py]
model: {{type: vlm, path: {llava}, adapter: {{rank: 4}}}}
data: {{type: shapes-captions, size: 4}}
objective: sft
sampling: {{max_new_tokens: 12}}
evaluation:
  prompts: {{type: shapes-images, split: held-out, size: 5}}
  metrics: [captions, faithscore]
  judge: {{type: strict, agrees: false}}
  batch_size: 3
trainer: {{steps: 1, batch_size: 2}}
"""

JUDGE = '''
from mmalign import JudgeSpec, hookimpl
from mmalign.records import Fact, Verdict


class Strict:
    """Finds a fact in each piece of an answer."""

    def __init__(self, agrees: bool = True):
        self.said = "yes" if agrees else "no"

    def facts(self, answers):
        return [[[Fact("existence", answer.text[a:b])] for a, b in answer.spans] for answer in answers]

    def verify(self, questions):
        return [Verdict(self.said) for _ in questions]


@hookimpl
def mmalign_judges():
    yield JudgeSpec("strict", Strict)
'''


def test_metrics_are_printed_written_and_compared(llava: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    config, out = tmp_path / "small.yaml", tmp_path / "found.json"
    config.write_text(CONFIG.format(folder=tmp_path, llava=llava))

    done = mmalign("evaluate", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()][:3] == [
        "captions",
        "hallucination",
        "hallucination/existence",
    ]
    found = json.loads(out.read_text())["metrics"]
    assert found["captions"]["length"]["n"] == 5
    assert found["captions"]["length"]["mean"] > 0
    assert found["faithscore"]["faithscore"]["mean"] == 0

    assert mmalign("train", config).returncode == 0
    compared = json.loads((tmp_path / "runs/small/evaluation.json").read_text())["metrics"]
    before, after = (compared["captions"]["length"][when]["mean"] for when in ("before", "after"))
    assert before == found["captions"]["length"]["mean"]
    assert compared["captions"]["length"]["difference"]["mean"] == after - before
    assert "captions/length" in (tmp_path / "runs/small/report.html").read_text()


def test_a_metric_that_asks_a_judge_says_so_before_anything_is_built(llava: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, llava=llava))
    done = mmalign("config", "check", config, "evaluation.judge=null", "evaluation.metrics=[faithscore]")
    assert done.returncode == 2
    assert "'faithscore' asks a judge for 'facts', 'verdicts': name one under evaluation.judge" in done.stderr
    done = mmalign("config", "check", config, "evaluation.metrics=[mmhal]")
    assert "'mmhal' asks for 'answers', which judge 'strict' does not give" in done.stderr
