"""The command line: `mmalign VERB ...`.

Verbs stand in `runs.py`, `parts.py`, `configs.py` and `data.py`, and import what is heavy when they are called. What they raise
ends here: exit code 2 for the user's mistakes, 1 for failures.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmalign import __version__
from mmalign.cli import configs, data, parts, runs
from mmalign.errors import RunFailure, UserError


class Verbs(TyperGroup):
    """mmalign's verbs and those of plugins.

    Plugins are loaded only to list all verbs, or to find one that is not mmalign's.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a verb. The one place where errors for people become messages and exit codes."""
        try:
            return super().invoke(ctx)
        except (UserError, RunFailure) as error:
            for line in str(error).splitlines():
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from None

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb by name; mmalign's own come first."""
        return self.commands.get(cmd_name) or self._of_plugins(ctx).get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """mmalign's verbs, then the plugins'."""
        return list(dict.fromkeys([*self.commands, *sorted(self._of_plugins(ctx))]))

    def _of_plugins(self, ctx: Any) -> dict[str, Any]:
        if not hasattr(self, "_extra"):
            self._extra = _plugin_commands(installed=not ctx.params.get("no_plugins"))
        return self._extra


def _plugin_commands(installed: bool) -> dict[str, Any]:
    """The verbs that plugins add. A plugin that fails to add its verbs is named on stderr and left out."""
    from mmalign import plugins

    added = typer.Typer()
    for implementation in plugins.load(installed=installed).hook.mmalign_commands.get_hookimpls():
        try:
            implementation.function(added)
        except Exception as error:
            typer.echo(f"warning: plugin '{implementation.plugin_name}' could not add its verbs: {error}", err=True)
    return dict(typer.main.get_group(added).commands)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mmalign train configs/quickstart.yaml",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmalign {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    no_plugins: Annotated[
        bool,
        typer.Option(
            "--no-plugins", is_eager=True, help="Leave out installed plugins; those that a config names stay."
        ),
    ] = False,
) -> None:
    """Align multimodal models with feedback: one loop, one set of objectives, every modality a plugin."""


def _verb(name: str, function: Any, example: str, to: typer.Typer = app) -> None:
    to.command(name, epilog=f"Example: {example}")(function)


_verb("train", runs.train, "mmalign train configs/quickstart.yaml name=mine trainer.steps=50")
_verb("plan", runs.plan, "mmalign plan configs/quickstart.yaml")
_verb("collect", runs.collect, "mmalign collect feedback.yaml collect.samples_per_prompt=2")
_verb("sample", runs.sample, "mmalign sample runs/quickstart --prompts prompts.txt --out samples")
_verb("score", runs.score, "mmalign score samples --reward clip-score --reward oracle")
_verb("evaluate", runs.evaluate, "mmalign evaluate runs/quickstart evaluation.count=64")
_verb("report", runs.report, "mmalign report runs/a runs/b --out comparison.html")
_verb("list", parts.list_parts, "mmalign list rewards")
_verb("describe", parts.describe, "mmalign describe objective dpo")
_verb("plugins", parts.list_plugins, "mmalign plugins --json")

_config = typer.Typer(no_args_is_help=True, help="Check a config, show it with all defaults, or print its schema.")
_verb("check", configs.check, "mmalign config check configs/quickstart.yaml trainer.steps=50", _config)
_verb("show", configs.show, "mmalign config show configs/quickstart.yaml", _config)
_verb("schema", configs.schema, "mmalign config schema > mmalign.schema.json", _config)
_data = typer.Typer(
    no_args_is_help=True, help="Check a data set row by row, convert a known layout, or show what it holds."
)
_verb("check", data.check, "mmalign data check pairs.jsonl", _data)
_verb("convert", data.convert, "mmalign data convert train.parquet --preset pick-a-pic --out pairs", _data)
_verb("info", data.info, "mmalign data info pairs.jsonl --json", _data)
app.add_typer(_data, name="data", epilog="Example: mmalign data check train.parquet --preset pick-a-pic")
app.add_typer(_config, name="config", epilog="Example: mmalign config check configs/quickstart.yaml")


def main() -> None:
    """The entry point `mmalign`."""
    app()
