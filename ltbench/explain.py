"""Settings in words: what one accepts, how it is searched, and what is wrong with a value."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ltbench.registry import nearest

_WORDS = {bool: "true | false", int: "integer", float: "number", str: "text"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
# Messages of these are written for the user, by a validator of ours or of a plugin.
_OWN_WORDS = ("value_error", "assertion_error")
_NOT_A_NUMBER = "YAML reads yes, no, on, off as true and false"


def allowed(field: FieldInfo) -> str:
    """What a setting accepts: `number 0.001..10`, `hybrid | integer 1..100`, `true | false`."""
    return _kind(field.annotation, field.metadata)


def searched(distribution: Any) -> str:
    """An Optuna distribution: `0.01 .. 1 (log)`, `1 .. 9 step 2`, `a | b`."""
    if hasattr(distribution, "choices"):
        return " | ".join(_value(choice) for choice in distribution.choices)
    text = f"{_value(distribution.low)} .. {_value(distribution.high)}"
    if distribution.step not in (None, 1):
        text += f" step {_value(distribution.step)}"
    return text + (" (log)" if distribution.log else "")


def problems(
    model: type[BaseModel], settings: Mapping[str, Any], error: ValidationError | None = None
) -> list[str]:
    """Every problem of a configuration, in one line a setting.

    Args:
        error: what `model` says of `settings`; None where it takes them.
    """
    found = _truths_for_numbers(model, settings)
    for details in error.errors(include_url=False) if error is not None else []:
        for name, text in _problem(details, model):
            found.setdefault(name or text, f"{name}: {text}" if name else text)
    return list(found.values())


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, those of models within models too."""
    for name, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        yield f"{prefix}{name}"
        if inner is not None:
            yield from setting_names(inner, f"{prefix}{name}.")


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model a setting's own settings belong to, if it has any."""
    models = [k for k in _leaves(annotation) if isinstance(k, type) and issubclass(k, BaseModel)]
    return models[0] if models else None


def _truths_for_numbers(
    model: type[BaseModel], settings: Mapping[str, Any], prefix: str = ""
) -> dict[str, str]:
    """By setting, the problem of a true or false where a number belongs: pydantic takes it as 1."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        value, kinds = settings.get(name), set(_leaves(field.annotation))
        inner = inner_model(field.annotation)
        if isinstance(value, Mapping) and inner is not None:
            found |= _truths_for_numbers(inner, value, f"{prefix}{name}.")
        elif isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            wanted, got = allowed(field), _value(value)
            text = f"{prefix}{name}: expected {wanted}; got {got} ({_NOT_A_NUMBER})"
            found[f"{prefix}{name}"] = text
    return found


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(name of the setting, what is wrong with it), several for a validator of a whole model."""
    path, field = _setting(details["loc"], model)
    name = ".".join(path)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, ValidationError):  # a model that was validated by a validator
        for inner in cause.errors(include_url=False):
            where = ".".join(str(part) for part in (*path, *inner["loc"]))
            yield where, f"{_uncapitalised(inner['msg'])}; got {_value(inner['input'])}"
    elif details["type"] == "extra_forbidden":
        yield name, f"no such setting.{_hint(path, model)}"
    elif details["type"] == "missing":
        yield name, f"missing. Give it in the recipe or with --set {name}=VALUE."
    elif details["type"] in _OWN_WORDS:
        for line in details["msg"].partition(", ")[2].splitlines():
            got = "" if isinstance(details["input"], Mapping) else _got(details["input"])
            yield name, _uncapitalised(line) + got if name else line
    elif field is None:
        yield name, _uncapitalised(details["msg"]) + _got(details["input"])
    elif inner_model(field.annotation) is not None:
        names = list(inner_model(field.annotation).model_fields)  # type: ignore[union-attr]
        yield name, f"expected settings below it, such as {name}.{names[0]}" if names else "empty"
    else:
        yield name, f"expected {allowed(field)}{_got(details['input'])}"


def _setting(
    loc: Sequence[int | str], model: type[BaseModel]
) -> tuple[list[str], FieldInfo | None]:
    """The path of a setting, without what pydantic adds for the members of a union, and its field.

    The field is None where the path leads to no field, or into a list or mapping.
    """
    path, field = [], None
    current: type[BaseModel] | None = model
    for part in loc:
        if current is None:
            assert field is not None
            if _is_union(field.annotation):
                return path, field
            return [*path, *(str(rest) for rest in loc[len(path) :])], None
        path.append(str(part))
        field = current.model_fields.get(str(part))
        current = None if field is None else inner_model(field.annotation)
        if field is None:
            break
    return path, field


def _hint(path: Sequence[str], model: type[BaseModel]) -> str:
    """The nearest setting at the same place, else one of the same name at another place."""
    known = list(setting_names(model))
    prefix = "".join(f"{part}." for part in path[:-1])
    beside = [n.removeprefix(prefix) for n in known if n.startswith(prefix)]
    near = nearest(path[-1], [name for name in beside if "." not in name])
    if near is not None:
        return f" Did you mean '{prefix}{near}'?"
    elsewhere = [name for name in known if name.rpartition(".")[2] == path[-1]]
    return f" Did you mean '{elsewhere[0]}'?" if elsewhere else ""


def _kind(annotation: Any, metadata: Iterable[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [*metadata, *_flat_metadata(more)])
    if annotation is type(None):
        return "null"
    if _is_union(annotation):
        return " | ".join(
            _kind(part, metadata) if part in (int, float) else _kind(part, [])
            for part in get_args(annotation)
        )
    if get_origin(annotation) is Literal:
        return " | ".join(_value(option) for option in get_args(annotation))
    if get_origin(annotation) in (tuple, list, set, frozenset):
        parts = [part for part in get_args(annotation) if part is not ...]
        return "list of " + ", ".join(_kind(part, []) for part in parts)
    word = _WORDS.get(annotation) or getattr(annotation, "__name__", str(annotation)).lower()
    return f"{word}{_range(metadata)}"


def _range(metadata: Iterable[Any]) -> str:
    """` 1..100` where both ends belong to it, ` > 0, <= 1` where not; "" without bounds."""
    bounds = {
        word: _value(getattr(limit, word))
        for limit in metadata
        for word in _SIGNS
        if getattr(limit, word, None) is not None
    }
    if set(bounds) == {"ge", "le"}:
        return f" {bounds['ge']}..{bounds['le']}"
    signs = [f"{sign} {bounds[word]}" for word, sign in _SIGNS.items() if word in bounds]
    return f" {', '.join(signs)}" if signs else ""


def _flat_metadata(metadata: Iterable[Any]) -> Iterator[Any]:
    for part in metadata:
        yield from part.metadata if isinstance(part, FieldInfo) else [part]


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types an annotation is made of, without those inside lists and mappings."""
    if get_origin(annotation) is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif _is_union(annotation):
        for part in get_args(annotation):
            yield from _leaves(part)
    else:
        yield annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _value(value: Any) -> str:
    """A value as it is written in YAML, floats without needless digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)


def _got(value: Any) -> str:
    return f"; got {value!r}" if isinstance(value, str) else f"; got {_value(value)}"


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
