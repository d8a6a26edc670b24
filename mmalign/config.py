"""The config of a run: one strict document, checked as a whole before anything is built.

Every key that mmalign itself understands stands here with its type, range and default. Options of parts are checked
against the parts' own signatures (`mmalign.options`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mmalign.document import Document, Source, read_source
from mmalign.errors import UserError, nearest
from mmalign.faults import Fault, shown, validated

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


_STAND_INS: dict[str, Any] = {"name": "unnamed", "trainer": {"steps": 1}, "trainer.steps": 1}
"""What takes the place of faulty keys without default, so that the rest of the document can be checked."""


class Section(BaseModel):
    """What all sections share: unknown keys are faults, values keep their type, nothing changes afterwards."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _as_mapping(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"type": given}
    if not isinstance(given, dict):
        raise ValueError(f"must be a name or a mapping with `type`, got {shown(given)}")
    return given


class Part(Section):
    """A part of the run: its `type` and, beside it, its options. A name alone is short for `{type: name}`."""

    model_config = ConfigDict(extra="allow")

    type: str
    """Name of the part, as `mmalign list` shows it."""

    @property
    def options(self) -> dict[str, Any]:
        """What stands beside the keys of this class; not yet checked."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return _as_mapping(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class NamedPart(Part):
    """A part that stands in a list, so that it needs a name there. Options called `name` are not possible."""

    name: str = ""
    """What metrics and reports call it; its type unless given."""

    @property
    def label(self) -> str:
        """What metrics and reports call it."""
        return self.name

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        given = _as_mapping(given)
        return {"name": given["type"], **given} if isinstance(given.get("type"), str) else given


class RewardPart(NamedPart):
    """A reward that trains."""

    weight: float = 1.0
    """Factor in the weighted sum of rewards."""
    normalize: Literal["none", "group", "batch", "running"] = "none"
    """Before it is weighted: its mean becomes 0 and its deviation 1, within each prompt's samples or the buffer, or against all
    that it said in this run until then, this buffer included. Of use where several rewards of different size are to count alike
    (GDPO); for objectives on rollouts."""
    gate: float | None = None
    """A sample whose score, as it is, is below this gets 0 from every other reward, before anything is normalised. With
    `weight: 0` the reward is a gate alone."""


class JudgePart(NamedPart):
    """A reward that evaluates."""

    role: Literal["trained", "held-out"] | None = None
    """Whether the run optimises it. By default it does if a training reward has the same name."""


class LeadingPart(NamedPart):
    """A reward that leads samples."""

    weight: float = 1.0
    """How much they follow it, in the units of the guidance."""


class GuidancePart(Part):
    """What leads samples without training anything, such as the best of several."""

    rewards: list[LeadingPart] = []
    """What it follows: their weighted sum. Left out where it follows a reward of its own, or none at all."""


class DataPart(Part):
    """Where rows come from."""

    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a row does that cannot be read: it stops the run, or the next row takes its place and it is counted. With
    `skip` every picture is opened once more, to find out. A label that the layout does not know stops it in either case, before
    the first step: it may well be another layout."""
    cache: bool | str = False
    """Whether what the frozen encoders make of the rows' texts and pictures is computed before the first step and kept, after
    which the encoders leave the GPU; a folder, or `true` for `.encodings` where run folders are made. It changes no number, and
    pays where rows are seen more than once, now or by the next run. A picture takes about 130 kB for SD 1.5 and 0.5 MB for
    SDXL, a text 0.25 to 5 MB; nothing is ever removed, but the folder may be, at any time."""


class Collect(Section):
    """Before training the model answers its prompts itself, `rewards` score the answers, and rows are made of them."""

    samples_per_prompt: int = Field(default=4, ge=2)
    """How many samples each prompt gets."""
    keep: Literal["pairs", "best", "all"] = "pairs"
    """What rows are: pairs; or the best sample of each prompt (RAFT, best-of-n); or all samples with their scores (RWR)."""
    pairing: Literal["best-worst", "ranked"] = "best-worst"
    """With `keep: pairs`, which samples of a prompt become pairs: the best with the worst; or also the second best with the
    second worst, and so on as long as their scores differ. Prompts whose samples all tie are left out and counted."""
    least_gap: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """With `keep: pairs`, by how much the scores of a pair differ at least: what hardly differs teaches little but noise."""
    least_score: float | None = Field(default=None, allow_inf_nan=False)
    """With `keep: best` or `all`, the least score of what is kept (DreamSync). Prompts without such a sample are left out and
    counted."""
    consistency: str | None = None
    """With `keep: pairs`, the name of a reward whose ranking of a prompt's samples is compared with that by the sum of all; to
    what degree both agree goes with the pairs, for `cream`. Its own weight is best 0."""

    @property
    def columns(self) -> frozenset[str]:
        """What a row of the collection holds."""
        media = {"pairs": {"chosen", "rejected"}, "best": {"sample", "score"}, "all": {"sample", "score"}}
        return frozenset({"prompt", *media[self.keep], *(["consistency"] if self.consistency else [])})


class Rollouts(Section):
    """Objectives on rollouts train on buffers: the model answers prompts itself, `rewards` score the answers, all of them
    train `epochs` times, and the next prompts are answered by what the model has become."""

    prompts: Count = 8
    """Prompts a process and buffer."""
    samples_per_prompt: Count = 8
    """How many samples each prompt gets."""
    epochs: Count = 1
    """Passes over a buffer, each in an order of its own."""
    batch_size: Count = 16
    """Samples made and scored at a time."""
    history: int = Field(default=0, ge=0)
    """How many scores of each prompt are remembered beyond its buffer, for `ddpo`."""
    shared_noise: bool = False
    """Whether the samples of a prompt begin with the same noise and draw theirs at the same steps, of models that denoise: they
    then differ by nothing but what is trained (DanceGRPO, arXiv:2505.07818; MixGRPO, arXiv:2507.21802)."""


def _file_of_prompts(given: Any) -> Any:
    """`prompts.txt` is short for `{type: prompts, path: prompts.txt}`."""
    is_file = isinstance(given, str) and ("/" in given or Path(given).suffix != "")
    return {"type": "prompts", "path": given} if is_file else given


class Evaluation(Section):
    """What is measured before, during and after training: fixed prompts, sampled with fixed seeds and scored; fixed rows."""

    every: Count | None = None
    """Steps between evaluations; by default only before and after training."""
    prompts: Annotated[Part | None, BeforeValidator(_file_of_prompts)] = None
    """A source of prompts: a file, or a dataset."""
    count: Count | None = None
    """How many prompts; all of them by default."""
    sampling: dict[str, Any] = {}
    """How samples are drawn that are looked at, here and by `mmalign sample`, where that differs from `sampling`: more
    steps, for example, than training can pay for."""
    guidance: GuidancePart | None = None
    """What leads the samples after training, and during it. Before training the untouched model draws them alone, so that what
    changes is what training and guidance do together; what guidance does alone is seen with `trainer.steps: 0`."""
    rewards: list[JudgePart] = []
    """What scores the samples."""
    metrics: list[NamedPart] = []
    """What is counted over all samples, as benchmarks do."""
    judge: Part | None = None
    """Who answers what metrics ask, where they do."""
    data: Part | None = None
    """Rows that are not trained on, of which the objective's own loss and metrics are taken."""
    batch_size: Count = 16
    """Samples made at a time."""
    grid: int = Field(default=8, ge=0)
    """How many samples are drawn as pictures."""
    seed: Seed = 0
    """Seed of the first sample; each next one is one higher."""


class Trainer(Section):
    """How the weights move."""

    steps: Annotated[int, Field(ge=0)]
    """Updates of the weights; with 0 there is only the evaluation, of `evaluation.guidance`."""
    batch_size: Count = 8
    """Rows, or samples of a buffer, a process and micro-batch."""
    gradient_accumulation: Count = 1
    """Micro-batches an update."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate, reached after `warmup_steps`."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """AdamW, or Adafactor, which needs less memory."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the first and the second moment."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate grows from near 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after that: as it is, or down to near 0 at the last step, in a line or a half cosine."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision; "no" computes in the model's own."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower. Vision-language models then read a
    prompt with each of its answers, not once for all of them."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """How many checkpoints stay on the disk."""
    seed: Seed = 0
    """Where all randomness of training comes from."""


def _is_a_folder_name(name: str) -> str:
    if name in ("", ".", "..") or set(name) & set("/\\"):
        raise ValueError(f"must be the name of a folder, without slashes, got {name!r}")
    return name


FolderName = Annotated[str, AfterValidator(_is_a_folder_name)]


class Config(Section):
    """One run."""

    name: FolderName
    """Name of the run, which is also its folder's."""
    plugins: list[str] = []
    """Python files with further plugins, relative to the config."""
    model: Part
    """What is trained."""
    data: DataPart
    """The rows it is trained on."""
    objective: Part
    """What the training minimises."""
    rewards: list[RewardPart] = []
    """What scores samples during training; their weighted sum is the reward."""
    sampling: dict[str, Any] = {}
    """How the model samples: the options of its process."""
    collect: Collect | None = None
    """Make pairs from the model's own samples first."""
    rollouts: Rollouts | None = None
    """The buffers of objectives on rollouts, which have them by default; no other objective does."""
    evaluation: Evaluation = Evaluation()
    """What is measured before, during and after."""
    trainer: Trainer
    """How the weights move."""
    folder: str = "runs"
    """Where run folders are made."""

    def plain(self) -> dict[str, Any]:
        """The document as plain data, defaults included."""
        return self.model_dump(mode="json")


def load(path: Path | str, overrides: Sequence[str] = (), *, tolerant: bool = False) -> Document:
    """Read and check a config with `key=value` overrides laid over it; paths in `plugins` become absolute.

    Raises one UserError that lists every fault with its place. tolerant: if the faulty keys can be left out, return the
    document with its `faults` instead, so that the parts are checked too and all faults are told at once.
    """
    source = read_source(Path(path), overrides)
    if "stages" in source.data:
        raise UserError(f"{path} holds stages: name one of its runs here, the folder `runs/<name>/<round>-<stage>`")
    if "judge" in source.data and "objective" not in source.data:
        raise UserError(f"{path} collects feedback and trains nothing: mmalign collect {path}")
    return checked(source, tolerant=tolerant)


def checked(source: Source, *, tolerant: bool = False) -> Document:
    """As `load`, for what was read already."""
    config, faults = validated(Config, source.data)
    if config is not None:
        faults = list(_contradictions(config))
    elif tolerant and _left_out(source.data, faults):
        config, _ = validated(Config, source.data)
    faults += source.repeated
    if config is None or source.unusable or (faults and not tolerant):
        raise source.refusal(faults)
    files = [str((source.path.parent / file).resolve()) for file in config.plugins]
    return Document(config.model_copy(update={"plugins": files}), source, faults)


def _contradictions(config: Config) -> Iterator[Fault]:
    """What is wrong between keys that are right by themselves."""
    lists: dict[str, Sequence[NamedPart]] = {
        "rewards": config.rewards,
        "evaluation.rewards": config.evaluation.rewards,
        "evaluation.metrics": config.evaluation.metrics,
        "evaluation.guidance.rewards": config.evaluation.guidance.rewards if config.evaluation.guidance else [],
    }
    for key, parts in lists.items():
        count = Counter(part.label for part in parts)
        for i, part in enumerate(parts):
            if count[part.label] > 1:
                kind = key.rpartition(".")[2]
                yield f"{key}.{i}", f"{count[part.label]} {kind} are called '{part.label}': give each a `name`"
    for i, part in enumerate(config.rewards):
        if part.gate is not None and len(config.rewards) == 1:
            yield f"rewards.{i}.gate", "there is no other reward that it could let through: add one, or leave it out"
    if config.collect and config.collect.least_gap and config.collect.keep != "pairs":
        yield "collect.least_gap", f"goes with `keep: pairs`, not with `keep: {config.collect.keep}`"
    if config.collect and config.collect.least_score is not None and config.collect.keep == "pairs":
        yield "collect.least_score", "goes with `keep: best` or `keep: all`, not with `keep: pairs`"
    if config.collect and (name := config.collect.consistency) is not None:
        if config.collect.keep != "pairs":
            yield "collect.consistency", f"goes with `keep: pairs`, not with `keep: {config.collect.keep}`"
        if name not in (known := [part.label for part in config.rewards]):
            yield "collect.consistency", f"no reward is called '{name}'{nearest(name, known)}"
    for kind in ("rewards", "metrics") if config.evaluation.prompts is None else ():
        if getattr(config.evaluation, kind):
            yield f"evaluation.{kind}", "nothing to score: add evaluation.prompts"
    if config.evaluation.guidance and config.evaluation.prompts is None:
        yield "evaluation.guidance", "nothing to lead: add evaluation.prompts"
    if config.trainer.steps == 0 and config.evaluation.guidance is None and config.collect is None:
        yield (
            "trainer.steps",
            "with 0 nothing happens: raise it, `collect`, or let evaluation.guidance lead the samples",
        )


def _left_out(data: Any, faults: Sequence[Fault]) -> bool:
    """Take the faulty keys out of `data`. False when one stands in a list, whose other entries would move."""
    for key, _ in faults:
        *way, last = key.split(".")
        holder = data
        for step in way:
            holder = holder[int(step)] if isinstance(holder, list) else holder.get(step, {})
        if isinstance(holder, list):
            return False
        holder.pop(last, None)
        if key in _STAND_INS:
            holder[last] = _STAND_INS[key]
    return True
