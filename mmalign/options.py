"""The options of a part: its signature is its schema.

What a spec builds is a class, a function, or an `Objective`, whose options are the keyword-only parameters of its
functions. Its parameters tell which keys a config may give, of which type, and what holds otherwise. A parameter
without annotation takes anything; `*args` and `**kwargs` are no options.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import Parameter
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, NamedTuple, Optional, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticSerializationError, to_jsonable_python

from mmalign.errors import UserError
from mmalign.faults import Fault, validated
from mmalign.specs import Objective, Spec

_KEYWORD = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}


class Option(NamedTuple):
    """One option, for people. type: as it is annotated. default: plain data, or None when `required`."""

    name: str
    type: str
    default: Any
    required: bool


class Options(BaseModel):
    """Base of all schemas: unknown keys and numbers that are not finite are faults; options are aliases, so that an option may
    have any name.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def schema(spec: Spec) -> type[Options]:
    """The schema of a spec's options. Imports what the spec names; raises UserError when that fails."""
    return schema_of(_loaded(spec))


def schema_of(target: Objective | Callable[..., Any]) -> type[Options]:
    """The schema of the keyword parameters of a callable, or of an objective's functions."""
    fields: dict[str, Any] = {}
    for i, parameter in enumerate(_parameters(target).values()):
        given = {} if parameter.default is Parameter.empty else {"default": parameter.default}
        fields[f"option_{i}"] = (parameter.annotation, Field(alias=parameter.name, **given))
    return create_model("Options", __base__=Options, **fields)


def check(spec: Spec, options: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with plain `options`: (key, sentence) for each fault."""
    return _made(_loaded(spec), options)[1]


def complete(spec: Spec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain `options` with every default that plain data can hold. Raises UserError when they are wrong."""
    return _complete(_loaded(spec), options, f"{spec.kind} '{spec.name}'")


def parsed(spec: Spec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for what the spec builds, of the annotated types. Raises UserError when `options` are wrong."""
    return _arguments(_checked(_loaded(spec), options, f"{spec.kind} '{spec.name}'"))


def check_callable(target: Callable[..., Any], options: Mapping[str, Any]) -> list[Fault]:
    """As `check`, for a callable."""
    return _made(target, options)[1]


def complete_callable(target: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """As `complete`, for a callable."""
    return _complete(target, options, target.__qualname__)


def bind_objective(spec: Spec, options: Mapping[str, Any]) -> Objective:
    """The objective with its options filled in: each of its functions gets those that it has."""
    objective: Objective = _loaded(spec)
    values = parsed(spec, options)
    return Objective(*(partial(f, **{k: values[k] for k in _keyword_only(f)}) for f in _functions(objective)))


def described(spec: Spec) -> list[Option]:
    """Every option of a spec in the order of the signature, required ones first."""
    listed = []
    for field in schema(spec).model_fields.values():
        kind = inspect.formatannotation(_bare(field.annotation)).replace("typing.", "")
        plain, default = _as_plain(None if field.is_required() else field.default)
        listed.append(Option(str(field.alias), kind, default if plain else repr(default), field.is_required()))
    return sorted(listed, key=lambda option: not option.required)


def _loaded(spec: Spec) -> Any:
    try:
        return spec.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{spec.kind} '{spec.name}' cannot be imported ({spec.build}): {error}") from error


def _parameters(target: Objective | Callable[..., Any]) -> dict[str, Parameter]:
    """Option name -> parameter, with its annotation resolved."""
    if isinstance(target, Objective):
        return {name: p for f in reversed(_functions(target)) for name, p in _keyword_only(f).items()}
    return {p.name: p for p in _resolved(target) if p.kind in _KEYWORD}


def _functions(objective: Objective) -> list[Callable[..., Any]]:
    """In the order of `Objective`'s fields."""
    return [f for f in (objective.loss, objective.terms, objective.advantages) if f is not None]


def _keyword_only(function: Callable[..., Any]) -> dict[str, Parameter]:
    return {p.name: p for p in _resolved(function) if p.kind is Parameter.KEYWORD_ONLY}


def _resolved(target: Callable[..., Any]) -> Iterator[Parameter]:
    names, made = _namespace(target), _made_defaults(target)
    for name, parameter in inspect.signature(target).parameters.items():
        annotation = _annotation(parameter, names)
        if parameter.default is None:
            annotation = Optional[annotation]  # noqa: UP045 - `|` does not take every annotation
        yield parameter.replace(annotation=annotation, default=made.get(name, parameter.default))


def _made_defaults(target: Any) -> dict[str, Any]:
    """The defaults that a dataclass makes anew each time, which its signature does not show."""
    if not dataclasses.is_dataclass(target):
        return {}
    fields = dataclasses.fields(target)
    return {field.name: field.default_factory() for field in fields if callable(field.default_factory)}


def _annotation(parameter: Parameter, names: dict[str, Any]) -> Any:
    """The annotation as an object; `Any` when there is none, or when it names what only type checkers import."""
    if parameter.annotation is Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except (NameError, AttributeError, SyntaxError, TypeError):
        return Any


def _namespace(target: Any) -> dict[str, Any]:
    """The names that the annotations of `target` may use: those of the module where its parameters were written."""
    target = target.func if isinstance(target, partial) else target
    function = getattr(target, "__init__", None) if inspect.isclass(target) else target
    own = getattr(inspect.unwrap(function), "__globals__", None) if function is not None else None
    module = sys.modules.get(getattr(target, "__module__", ""))
    names: dict[str, Any] = own if own is not None else vars(module) if module is not None else {}
    return names


def _made(target: Objective | Callable[..., Any], options: Mapping[str, Any]) -> tuple[Options, list[Fault]]:
    """Plain `options` as the schema of what they are for, and what is wrong with each of them or between them."""
    made, faults = validated(schema_of(target), dict(options))
    if made is None:
        return Options(), faults
    if isinstance(target, Objective) and target.misfits is not None:
        given = _arguments(made)
        faults += target.misfits(**{name: given[name] for name in _keyword_only(target.misfits)})
    return made, faults


def _checked(target: Objective | Callable[..., Any], options: Mapping[str, Any], name: str) -> Options:
    made, faults = _made(target, options)
    if faults:
        raise UserError("\n".join(f"{name}: {key}: {message}" for key, message in faults))
    return made


def _arguments(made: Options) -> dict[str, Any]:
    return {str(field.alias): getattr(made, name) for name, field in type(made).model_fields.items()}


def _complete(target: Objective | Callable[..., Any], options: Mapping[str, Any], name: str) -> dict[str, Any]:
    plain = {key: _as_plain(value) for key, value in _arguments(_checked(target, options, name)).items()}
    return {key: value for key, (is_plain, value) in plain.items() if is_plain}


def _bare(annotation: Any) -> Any:
    """An annotation without what only pydantic reads."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    return Union[*map(_bare, get_args(annotation))] if get_origin(annotation) in (Union, UnionType) else annotation


def _as_plain(value: Any) -> tuple[bool, Any]:
    """Whether a value can stand in a config, and how it does."""
    try:
        return True, to_jsonable_python(value)
    except PydanticSerializationError:
        return False, value
