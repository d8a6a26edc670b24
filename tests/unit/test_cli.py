"""The command line: exit codes, messages on stderr, JSON, verbs of plugins, and a quick start."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmalign import __version__
from mmalign.cli import app

VERBS = [
    "train",
    "plan",
    "collect",
    "sample",
    "score",
    "evaluate",
    "report",
    "list",
    "describe",
    "plugins",
    "data",
    "config",
]

TINY = '''
"""A plugin in a file: a model family and a reward that build nothing."""
from mmalign import ModelSpec, RewardSpec, hookimpl

class Tiny:
    """A model without weights.

    size: how large it is not.
    """
    def __init__(self, path: str, size: int = 3):
        raise AssertionError("checks build nothing")

class Blueness:
    """Share of blue."""
    def __init__(self, power: float = 1.0):
        raise AssertionError("checks build nothing")

@hookimpl
def mmalign_models():
    yield ModelSpec("tiny", Tiny, process="denoising", paper="arXiv:0000.00000")

@hookimpl
def mmalign_rewards():
    yield RewardSpec("blueness", Blueness, differentiable=True)
'''

CONFIG = """\
name: small
plugins: [./tiny.py]
model: {type: tiny, path: here}
data: {type: prompts, path: prompts.txt}
objective: draft
rewards: [blueness]
trainer: {steps: 5}
"""

VERB = '''
from mmalign import RunFailure, UserError, hookimpl

def break_it(how: str):
    """Break."""
    if how == "bug":
        raise KeyError("x")
    raise UserError("first line\\nsecond line") if how == "user" else RunFailure("five bad steps")

@hookimpl
def mmalign_commands(app):
    app.command("break")(break_it)
'''


@pytest.fixture
def run():
    """Call the command line in this process, without installed plugins unless told otherwise."""

    def run(*arguments: object, installed: bool = False):
        options = [] if installed else ["--no-plugins"]
        return CliRunner().invoke(app, [*options, *map(str, arguments)])

    return run


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path / "small.yaml"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a plugin module look installed by a distribution, here and in subprocesses."""

    def install(module: str, body: str) -> None:
        folder = tmp_path / "site"
        information = folder / f"mmalign_{module}-1.2.dist-info"
        information.mkdir(parents=True)
        (folder / f"{module}.py").write_text(body)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mmalign-{module}\nVersion: 1.2\n")
        (information / "entry_points.txt").write_text(f"[mmalign]\n{module} = {module}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def words(text: str) -> str:
    """Without the boxes and line breaks of help pages, which depend on the terminal's width."""
    return " ".join(re.sub(r"[╭╮╰╯─│]", " ", text).split())


# ---- help and start -------------------------------------------------------------------------------------------------


def test_help_lists_every_verb(run):
    outcome = run("--help")
    assert outcome.exit_code == 0
    assert all(re.search(rf"^│? *{verb}\b", outcome.stdout, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize(
    "verb", [*([v] for v in VERBS), ["config", "check"], ["config", "show"], ["config", "schema"]], ids=" ".join
)
def test_every_verb_explains_itself_with_an_example(run, verb):
    outcome = run(*verb, "--help")
    assert outcome.exit_code == 0
    assert f"Example: mmalign {verb[0]}" in words(outcome.stdout)


def test_no_arguments_is_a_usage_error_that_shows_help(run):
    outcome = run(installed=True)
    assert outcome.exit_code == 2
    assert "Commands" in outcome.output


def test_version(run):
    assert run("--version").stdout == f"mmalign {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["plugins", "--json"], ["config", "schema"]], ids=" ".join)
def test_what_needs_no_tensor_imports_no_torch(arguments):
    script = (
        "import sys\nfrom mmalign.cli import app\n"
        f"try: app(['--no-plugins', *{arguments!r}])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'accelerate'} & set(sys.modules)"
    )
    outcome = process("-c", script)
    assert outcome.returncode == 0, outcome.stderr


def test_it_runs_as_a_module():
    outcome = process("-m", "mmalign", "--no-plugins", "list", "objectives")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "diffusion-dpo" in outcome.stdout


# ---- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "no such file: nowhere.yaml"),
        (["list", "rewrads"], "unknown kind 'rewrads', did you mean 'rewards'?"),
        (["describe", "objective", "dpoo"], "unknown objective 'dpoo', did you mean 'dpo'?"),
        (["describe", "model", "diffusers"], "pip install mmalign-diffusion"),
        (["report", "nowhere"], "nowhere"),
        (["sample", "x", "--prompts", "p", "--out", "o"], "--no-plugins: 'sample' needs the installed plugins"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_exit_code_2_and_one_message(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", ".", "--reward", "clip", "x=1"], "'x=1' is not of the form NAME.KEY=VALUE"),
        (["score", ".", "--reward", "clip", "clip.x"], "'clip.x' is not of the form NAME.KEY=VALUE"),
        (
            ["score", ".", "--reward", "clip", "clop.x=1"],
            "'clop' is no --reward and no --metric, did you mean 'clip'?",
        ),
        (["score", ".", "--reward", "clip"], "samples.jsonl"),
        (["evaluate", "nowhere"], "nowhere is neither a run folder nor a config file"),
    ],
)
def test_verbs_that_need_plugins_refuse_in_the_same_way(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments, installed=True)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", "x", "--resum"], ["score", "."], ["sample", "x"]]
)
def test_usage_errors_are_exit_code_2(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [("user", 2, "error: first line\nerror: second line\n"), ("run", 1, "error: five bad steps\n")],
)
def test_what_a_verb_raises_becomes_a_message_and_an_exit_code(install, run, how, code, stderr):
    install("breaking", VERB)
    outcome = run("break", how, installed=True)
    assert (outcome.exit_code, outcome.stderr) == (code, stderr)


def test_a_defect_keeps_its_traceback_and_is_exit_code_1(install):
    install("breaking", VERB)
    outcome = process("-m", "mmalign", "break", "bug")
    assert outcome.returncode == 1
    assert "Traceback" in outcome.stderr
    assert outcome.stderr.strip().endswith("KeyError: 'x'")


# ---- plugins --------------------------------------------------------------------------------------------------------


def test_plugins_add_verbs(install, run):
    install("breaking", VERB)
    assert "break" in words(run("--help", installed=True).stdout)
    assert run("break", "--help", installed=True).exit_code == 0
    assert "break" not in words(run("--help").stdout)
    assert run("break", "user").exit_code == 2


def test_a_plugin_cannot_take_a_verb_away(install, run):
    install("greedy", VERB.replace('"break"', '"list"'))
    assert "diffusion-dpo" in run("list", installed=True).stdout


def test_a_broken_plugin_is_shown_and_stops_nothing(install, run):
    install("broken", "import nothing_of_that_name\n")
    shown = run("plugins", installed=True)
    assert shown.exit_code == 0
    assert re.search(r"broken +mmalign-broken 1.2 +failed: .*nothing_of_that_name", shown.stdout)
    (failed,) = (p for p in json.loads(run("plugins", "--json", installed=True).stdout) if p["error"])
    assert (failed["name"], failed["distribution"], failed["version"]) == ("broken", "mmalign-broken", "1.2")
    listed = run("list", installed=True)
    assert (listed.exit_code, listed.stderr) == (0, "warning: failed to load: broken; see `mmalign plugins`\n")
    assert run("--help", installed=True).exit_code == 0


def test_a_plugin_that_cannot_add_its_verbs_is_named(install, run):
    install("clumsy", "from mmalign import hookimpl\n\n@hookimpl\ndef mmalign_commands(app):\n    app.nothing()\n")
    outcome = run("--help", installed=True)
    assert outcome.exit_code == 0
    assert "mmalign-clumsy:clumsy" in outcome.stderr


# ---- what there is --------------------------------------------------------------------------------------------------


def test_the_core_alone_lists_and_says_what_to_install(run):
    outcome = run("list")
    assert outcome.exit_code == 0
    assert re.search(r"objective +diffusion-dpo +mmalign +arXiv:2311.12908", outcome.stdout)
    assert "no models: plugins bring them, for example pip install mmalign-diffusion" in outcome.stdout


def test_list_is_the_same_in_json(run):
    everything = json.loads(run("list", "--json").stdout)
    assert set(everything) == {"models", "objectives", "rewards", "metrics", "datasets", "judges", "guidance"}
    (dpo,) = (part for part in everything["objectives"] if part["name"] == "dpo")
    assert dpo["distribution"] == "mmalign"
    assert (dpo["needs"], dpo["columns"]) == (["likelihood"], ["chosen", "prompt", "rejected"])
    assert list(json.loads(run("list", "objective", "--json").stdout)) == ["objectives"]


def test_describe_tells_options_docstring_paper_and_source(install, run):
    install("miniature", TINY)
    outcome = run("describe", "model", "tiny", installed=True)
    assert outcome.exit_code == 0
    for expected in (
        "mmalign-miniature",
        "1.2",
        "arXiv:0000.00000",
        "denoising",
        "miniature:Tiny",
        "A model without weights.",
    ):
        assert expected in outcome.stdout
    assert re.search(r"^path +str +required$", outcome.stdout, re.MULTILINE)
    assert re.search(r"^size +int +3$", outcome.stdout, re.MULTILINE)
    described = json.loads(run("describe", "models", "tiny", "--json", installed=True).stdout)
    assert described["options"] == [
        {"name": "path", "type": "str", "default": None, "required": True},
        {"name": "size", "type": "int", "default": 3, "required": False},
    ]
    assert described["doc"].startswith("A model without weights.")


def test_an_objective_is_described_by_its_file(run):
    outcome = run("describe", "objective", "dpo")
    assert "log" in outcome.stdout
    assert re.search(r"^beta +float +0.1$", outcome.stdout, re.MULTILINE)


# ---- configs --------------------------------------------------------------------------------------------------------


def test_a_right_config_is_ok(run, config):
    outcome = run("config", "check", config)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, f"{config}: ok\n", "")


def test_faults_of_keys_and_of_parts_come_together_in_order(run, config):
    overrides = ["trainer.stepz=3", "data.colum=4", "rewards.0.power=x", "sampling.stps=3", "objective=dpoo"]
    outcome = run("config", "check", config, "trainer.steps=-1", *overrides)
    assert outcome.exit_code == 2
    assert [line.split(": ")[1] for line in outcome.stderr.splitlines()] == [
        f"override '{override}'" for override in ("trainer.steps=-1", *overrides)
    ]
    assert "unknown key, did you mean 'column'?" in outcome.stderr


def test_what_is_shown_has_every_default_and_is_a_config(run, config, tmp_path):
    shown = run("config", "show", config, "trainer.seed=7")
    assert shown.exit_code == 0
    assert "power: 1.0" in shown.stdout
    assert "size: 3" in shown.stdout
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    assert run("config", "show", tmp_path / "shown.yaml").stdout == shown.stdout


def test_a_run_folder_stands_for_its_config(run, config, tmp_path):
    folder = tmp_path / "runs/small"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(run("config", "show", config).stdout)
    assert run("config", "check", folder).stdout == f"{folder / 'config.yaml'}: ok\n"


def test_the_schema_is_json(run):
    schema = json.loads(run("config", "schema").stdout)
    assert [one["$ref"].rpartition("/")[2] for one in schema["anyOf"]] == ["Config", "Collection", "Staged"]


def test_a_plan_names_functions_and_files(run, config):
    outcome = run("plan", config)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.startswith(f"{config}: every check passed\n")
    assert re.search(r"tiny\.py:\d+ Tiny", outcome.stdout)
    assert re.search(r"loop\.py:\d+ train", outcome.stdout)
    assert re.search(r"5 updates", outcome.stdout)
