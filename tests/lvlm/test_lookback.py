"""LookBack: what the critic is asked in which order, that without questions nothing changes, and what it is worth to VISCore."""

import base64
import json
from pathlib import Path

import pytest
from command_line import here

from mmalign.errors import UserError
from mmalign.records import Prompt, Samples
from mmalign_lvlm.guidance.lookback import LookBack, questions

STEPS = {"question": "How many cats?", "reasoning": ["There are two cats.", "One of {them} is black."]}


class Critic:
    """Answers by the first of its rules whose key is in what it is asked, and remembers that."""

    def __init__(self, **rules: str):
        self.rules = rules
        self.asked: list[tuple[str, Prompt]] = []

    def likeliest(self, prompts):
        return self._said("likeliest", prompts)

    def sample(self, prompts, seeds):
        return self._said("sample", prompts)

    def _said(self, how, prompts):
        self.asked += [(how, prompt) for prompt in prompts]
        rules = self.rules.items()
        return Samples(prompts, [next((said for key, said in rules if key in p.text), "It is.") for p in prompts])


def visco(text: str = "Criticise.", **known) -> Prompt:
    return Prompt(text, {**STEPS, **known}, images=("cats.png",))


def test_what_lines_ask_is_found_once_and_without_marks():
    text = "Sure:\n1. Is it red?\n - How many? \n* 2 cats, or three?\nNone.\n2) Is it red?\n**Where?**"
    assert questions(text) == ["Is it red?", "How many?", "2 cats, or three?", "Where?"]
    assert questions("No question.\n? ??\n\n?") == []


def test_the_critic_answers_then_asks_then_looks_and_writes_last():
    there = "Are there two?\nAre they cats?\nAre they dogs?"
    critic = Critic(**{"says: There": there, "says: One of {them}": "Is one black?", "black?": "No."})
    prompts = [visco(), visco("The same again.")]
    assert LookBack(questions=2)(critic, None, prompts, [5, 6]).prompts == prompts
    begun = [prompt.text.splitlines()[0] for _, prompt in critic.asked]
    asks = 'Somebody answers the question "How many cats?" about this picture, and says: '
    assert begun[:3] == ["How many cats?", asks + "There are two cats.", asks + "One of {them} is black."]
    assert begun[3:6] == ["Are there two?", "Are they cats?", "Is one black?"]
    assert begun[6:12] == begun[:6]
    assert [how for how, _ in critic.asked] == ["likeliest"] * 12 + ["sample"] * 2
    assert all(prompt.images == ("cats.png",) for _, prompt in critic.asked)
    first, second = (prompt.text for _, prompt in critic.asked[-2:])
    assert first.endswith("\n\nCriticise.")
    assert second.endswith("\n\nThe same again.")
    assert "question: It is.\nAbout step 1: Are there two? It is.\n" in first
    assert "\nAbout step 1: Are they cats? It is.\nAbout step 2: Is one black? No.\n" in first


def test_a_critique_depends_on_nothing_beside_it():
    critic = Critic(two="Are there two?")
    alone = LookBack()(critic, None, [visco()], [0])
    one = critic.asked[-1]
    LookBack()(critic, None, [visco(reasoning=["It is red."] * 3), visco(), visco()], [1, 0, 2])
    assert critic.asked[-2] == critic.asked[-1] == one
    assert len(alone) == 1


def test_steps_about_which_nothing_was_asked_are_told_once():
    led = LookBack()
    led(Critic(two="Are there two?"), None, [visco(), visco()], [0, 1])
    assert [sentence[: len("about 2 of 4 steps")] for sentence in led.warnings()] == ["about 2 of 4 steps"]
    assert led.warnings() == []


def test_without_questions_the_critic_is_asked_what_it_was_asked():
    critic, prompts = Critic(), [visco()]
    assert LookBack(questions=0)(critic, None, prompts, [3]).prompts is prompts
    assert critic.asked == [("sample", prompts[0])]
    with pytest.raises(UserError, match="nothing tells the reasoning of prompt 'Why"):
        LookBack()(critic, None, [Prompt("Why?")], [0])


PLUGIN = '''
import re
from unit.toy_tokens import ToyTokens

from mmalign import JudgeSpec, ModelSpec, hookimpl


class Critic(ToyTokens):
    """A critic that finds what is wrong only where it has looked."""

    def to(self, device):
        return self

    def save(self, folder):
        folder.mkdir()

    def generate(self, prompts, choose, max_new_tokens):
        return [[*said(prompt.text).encode()] for prompt in prompts]

    def decode(self, responses):
        return [bytes(response).decode() for response in responses]


def said(text):
    if "Which questions" in text:
        return "Are there two cats?"
    if text.startswith("Are there"):
        return "No, one."
    wrong = '"incorrect"' if "cats? No, one." in text else '"correct"'
    step = f'"step_1": {{"correctness": {wrong}, "explanation": "There is one."}}'
    return f'{{{step}, "answer_correctness": {wrong}}}'


class Agrees:
    """Says yes."""

    def ask(self, prompts):
        return ["Yes."] * len(prompts)


@hookimpl
def mmalign_models():
    yield ModelSpec("critic", Critic, process="tokens")


@hookimpl
def mmalign_judges():
    yield JudgeSpec("agrees", Agrees, offers=frozenset({"answers"}))
'''

CONFIG = """
name: small
folder: {folder}/runs
plugins: [./critic.py]
model: {model}
data: &prompts {prompts}
objective: remax
rewards: [{{type: length, most: 9}}]
sampling: {{max_new_tokens: 6}}
evaluation: {{prompts: *prompts, metrics: {metrics}, judge: agrees, guidance: lookback, batch_size: 2}}
trainer: {{steps: 0}}
"""


def mmalign(*arguments: str | Path) -> str:
    done = here(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_one_run_compares_viscore_with_and_without(picture_files: list[Path], tmp_path: Path):
    row = {
        "question": "How many?",
        "image": base64.b64encode(picture_files[0].read_bytes()).decode(),
        "response": {"reasoning": ["Two."], "answer": "2"},
        "answer_correctness": False,
        "reasoning_correctness": [False],
        "reasoning_critic": [["There is one.", "One.", "Not two."]],
    }
    (tmp_path / "test.jsonl").write_text((json.dumps(row) + "\n") * 2)
    (tmp_path / "critic.py").write_text(PLUGIN)
    prompts = f"{{type: visco, path: {tmp_path}/test.jsonl}}"
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, model="critic", prompts=prompts, metrics="[visco]"))
    mmalign("train", config)
    found = json.loads((tmp_path / "runs/small/evaluation.json").read_text())["metrics"]["visco"]
    assert {name: (one["before"]["mean"], one["after"]["mean"]) for name, one in found.items()} == dict.fromkeys(
        ("viscore", "answer_f1", "thought_f1", "explanation_f1"), (0, 1)
    )
    mmalign("evaluate", config, "--out", tmp_path / "off.json", "evaluation.guidance.questions=0")
    assert json.loads((tmp_path / "off.json").read_text())["metrics"]["visco"]["viscore"]["mean"] == 0


def test_a_vision_language_model_looks_back(llava: Path, picture_files: list[Path], tmp_path: Path):
    asked = {
        "prompt": "what is this",
        "question": "what is",
        "reasoning": ["a circle"],
        "images": [str(picture_files[0])],
    }
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(asked) + "\n" + json.dumps({**asked, "prompt": "a red square"}) + "\n"
    )
    (tmp_path / "critic.py").write_text(PLUGIN)
    prompts, model = (
        f"{{type: text-prompts, path: {tmp_path}/rows.jsonl}}",
        f"{{type: vlm, path: {llava}, adapter: {{rank: 1}}}}",
    )
    config = tmp_path / "small.yaml"
    config.write_text(CONFIG.format(folder=tmp_path, model=model, prompts=prompts, metrics="[]"))

    def answers(name: str, step: str) -> list[str]:
        rows = (tmp_path / f"runs/{name}/samples/{step}/responses.jsonl").read_text().splitlines()
        return [json.loads(row)["response"] for row in rows]

    mmalign("train", config)
    assert answers("small", "step-000000") != answers("small", "guided")
    told = json.loads((tmp_path / "runs/small/warnings.jsonl").read_text().splitlines()[0])
    assert told["message"].startswith("evaluation.guidance: about 2 of 2 steps the critic asked nothing")
    mmalign("train", config, "name=off", "evaluation.guidance.questions=0")
    assert answers("off", "guided") == answers("off", "step-000000") == answers("small", "step-000000")
