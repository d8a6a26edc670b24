"""THE contract between mmalign and its plugins: every hook, in the order in which a run meets them.

Three kinds, never mixed. *Offers* take no arguments and yield frozen specs. *Trainer hooks* observe a run; what changes a run
is a part that its config names. *Decisions* stop at the first answer, and third parties are asked before mmalign.

Implementations may take fewer arguments than stand here, by name; never give one a default value.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import typer
    from torch import Tensor

    from mmalign.config import Config
    from mmalign.plugins import Catalogue
    from mmalign.records import Rollout, Samples, Scores
    from mmalign.run import Run
    from mmalign.specs import DataSpec, GuidanceSpec, JudgeSpec, MetricSpec, ModelSpec, ObjectiveSpec, RewardSpec

hookspec = pluggy.HookspecMarker("mmalign")
hookimpl = pluggy.HookimplMarker("mmalign")

# ---- offers: what a plugin brings -----------------------------------------------------------------------------------


@hookspec
def mmalign_models() -> Iterable["ModelSpec"]:
    """Model families. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_models():
            yield ModelSpec("diffusers", "mmalign_diffusion.models:DiffusersModel", process="denoising")
    """


@hookspec
def mmalign_objectives() -> Iterable["ObjectiveSpec"]:
    """Training objectives. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_objectives():
            yield ObjectiveSpec("dpo", "mmalign.objectives.dpo:objective", needs=frozenset({"likelihood"}))
    """


@hookspec
def mmalign_rewards() -> Iterable["RewardSpec"]:
    """Rewards. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_rewards():
            yield RewardSpec("redness", Redness, differentiable=True)
    """


@hookspec
def mmalign_metrics() -> Iterable["MetricSpec"]:
    """Numbers that an evaluation takes of all its samples together. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_metrics():
            yield MetricSpec("pope", "mmalign_lvlm.metrics.pope:Pope", paper="arXiv:2305.10355")
    """


@hookspec
def mmalign_datasets() -> Iterable["DataSpec"]:
    """Sources of prompts, samples and pairs. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_datasets():
            yield DataSpec("shapes-prompts", "mmalign_shapes.prompts:ShapesPrompts")
    """


@hookspec
def mmalign_judges() -> Iterable["JudgeSpec"]:
    """Judges of answers, for `mmalign collect`. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_judges():
            yield JudgeSpec("oracle", "mmalign_shapes.judge:ShapesOracle")
    """


@hookspec
def mmalign_guidance() -> Iterable["GuidanceSpec"]:
    """Ways to sample that rewards lead. Called once, when plugins are loaded. Since 1.

    Example::

        @hookimpl
        def mmalign_guidance():
            yield GuidanceSpec("best-of-n", "mmalign.samplers.guided:BestOfN")
    """


@hookspec
def mmalign_commands(app: "typer.Typer") -> None:
    """Add verbs to the command line. Called once, before the command line is parsed. Since 1.

    app: mmalign's typer application. Import what is heavy inside the command.

    Example::

        @hookimpl
        def mmalign_commands(app):
            app.command("shapes")(shapes_command)
    """


# ---- trainer hooks: what a plugin watches ---------------------------------------------------------------------------


@hookspec
def mmalign_configure(config: "Config", catalogue: "Catalogue") -> None:
    """A config was read and checked; nothing is built yet. Raise `UserError` to refuse it. Since 1.

    config: the whole document with its defaults. Not to be changed.
    catalogue: every part that is offered, by kind and name.

    Example::

        @hookimpl
        def mmalign_configure(config):
            if config.trainer.steps > 10_000:
                raise UserError("trainer.steps: this machine is shared, stay below 10000")
    """


@hookspec
def mmalign_run_start(run: "Run") -> None:
    """Everything is built (and restored, when resuming); the first step comes next. Since 1.

    run: folder, config, parts, step. `run.keep(name, obj)` here makes a plugin's state survive a resume.

    Example::

        @hookimpl
        def mmalign_run_start(run):
            print("training", run.config.name, "into", run.folder)
    """


@hookspec
def mmalign_rollout(run: "Run", rollout: "Rollout", scores: "Scores") -> None:
    """The model answered the prompts of a buffer and was scored; its updates come next. Called on every process, and only
    where the objective trains on rollouts. Since 1.

    rollout: all samples of the buffer, those of one prompt beside each other, with their log-probabilities. Not to be changed.
    scores: what the run's reward says of them: `values` `[N]`, not finite where it could not say, and `dimensions`, the raw
        scores of each reward by name.

    Example::

        @hookimpl
        def mmalign_rollout(run, rollout, scores):
            best = int(scores.values.argmax())
            print(run.step, rollout.samples.prompts[best].text, float(scores.values[best]))
    """


@hookspec
def mmalign_step_end(run: "Run", step: int, metrics: dict[str, float]) -> None:
    """An update was made (or skipped: then `metrics["skipped"]` is 1). Called on every process. Since 1.

    step: 1 for the first update.
    metrics: this update's scalars, averaged over processes. Not to be changed.

    Example::

        @hookimpl
        def mmalign_step_end(step, metrics):
            print(step, metrics["loss"])
    """


@hookspec
def mmalign_evaluated(run: "Run", step: int, results: dict[str, dict[str, Any]]) -> None:
    """Fixed prompts were sampled and scored. Step 0 is the model before training. Since 1.

    results: by reward name: "role" is "trained" or "held-out"; "mean", "se" and "n" of the scores, and how many are
        "unscored"; against step 0, paired: "difference", "difference_se" and "win_rate". The numbers of metrics stand beside
        them as `metric/number`, with "role" "metric" and the number as "mean"; they are won by nobody.

    Example::

        @hookimpl
        def mmalign_evaluated(step, results):
            print(step, {name: result["mean"] for name, result in results.items()})
    """


@hookspec
def mmalign_checkpoint(run: "Run", folder: Path) -> None:
    """A checkpoint was written and renamed into place. Main process only. Since 1.

    folder: the finished checkpoint. Files added to it are kept with it.

    Example::

        @hookimpl
        def mmalign_checkpoint(folder):
            shutil.copytree(folder, backup / folder.name)
    """


@hookspec
def mmalign_run_end(run: "Run", error: BaseException | None) -> None:
    """The run is over. Called exactly once for each `mmalign_run_start`, whatever happened. Since 1.

    error: what ended it, or None. The error is raised again afterwards.

    Example::

        @hookimpl
        def mmalign_run_end(run, error):
            notify(f"{run.config.name}: {error or 'done'}")
    """


# ---- decisions: the first answer wins -------------------------------------------------------------------------------


@hookspec(firstresult=True)
def mmalign_should_stop(run: "Run", step: int, metrics: dict[str, float]) -> str | None:
    """After each step: end the run now? Return the reason, or None to let others answer. Since 1.

    A reason ends the run as a success. Raise `RunFailure` to end it as a failure.

    Example::

        @hookimpl
        def mmalign_should_stop(metrics):
            return "reward reached 0.9" if metrics.get("reward", 0) > 0.9 else None
    """


@hookspec(firstresult=True)
def mmalign_write_samples(samples: "Samples", folder: Path) -> Sequence[Path] | None:
    """Write samples as files that people can open. Return one path a sample in order, or None if not yours. Since 1.

    folder: exists. An overview beside the samples (`grid.png`) is welcome and is not among the paths.

    Example::

        @hookimpl
        def mmalign_write_samples(samples, folder):
            return write_pngs(samples.media, folder)
    """


@hookspec(firstresult=True)
def mmalign_split(text: str) -> Sequence[tuple[int, int]] | None:
    """Cut an answer into the pieces that feedback is given on, or return None to let others do it. Since 1.

    Returns spans in their order, `text[start:end]` for each; none of a text that says nothing. What trains on feedback and
    what rewards by it must cut alike.

    Example::

        @hookimpl
        def mmalign_split(text):
            return [match.span() for match in re.finditer(r"[^.]+", text)]
    """


@hookspec(firstresult=True)
def mmalign_read_media(path: Path) -> "Tensor | str | None":
    """Read one sample back from a file, or return None if its kind of file is not yours. Since 1.

    Returns pixels `[C, H, W]` in [0, 1], of videos `[F, C, H, W]`, or the text of an answer. Raise `UserError` for a file of
    your kind that cannot be read.

    Example::

        @hookimpl
        def mmalign_read_media(path):
            return read_png(path) if path.suffix == ".png" else None
    """


@hookspec(firstresult=True)
def mmalign_frame_rate(path: Path) -> float | None:
    """Tell how many frames a second there are of what `mmalign_read_media` reads from a file, or return None if its kind of
    file is not yours. Since 1.

    Example::

        @hookimpl
        def mmalign_frame_rate(path):
            return rate_of_mp4(path) if path.suffix == ".mp4" else None
    """
