"""From what a user asks for to a run's configuration: layers, checked before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from ltbench import explain
from ltbench.composition import COMPOSITIONS
from ltbench.errors import UsageError
from ltbench.recipes import is_file, load_recipe, recipe_names
from ltbench.registry import DATASETS, METHODS, normalise, suggest
from ltbench.run_config import Frozen, RunConfig
from ltbench.settings import Settings, flat, merge, nested, read_settings
from ltbench.tuned import TunedSettings, read_tuned, read_tuned_of

__all__ = [
    "Request",
    "asked",
    "dataset_config",
    "flat",
    "load_recipe",
    "nested",
    "preset_settings",
    "protocol_name",
    "rebuild",
    "recipe_names",
    "resolve",
    "tuned_settings",
    "user_layers",
    "validate",
]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Request:
    """What a user asked for, before it is resolved to a `RunConfig`.

    Attributes:
        method: name, or name@preset.
        settings: dotted keys from flags and `--set`, the strongest layer.
        config_file: a YAML file of settings, weaker than flags.
        tuned_file: a YAML file that `tune` wrote, weaker than `config_file`; or the folder of such
            files, which has one for this method.
    """

    method: str
    dataset: str
    protocol: str | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    config_file: Path | None = None
    tuned_file: Path | None = None


def resolve(request: Request) -> RunConfig:
    """Stack the layers and check the whole, naming every problem at once.

    Layers, later wins: library < recipe < method's defaults < method@preset < tuned file < YAML
    file < flags.
    """
    method_name, preset = _method_and_preset(request)
    method = METHODS[method_name]
    dataset = DATASETS[request.dataset]
    user = user_layers(request)
    recipe = request.recipe or user.get("recipe") or dataset.default_recipe
    protocol = request.protocol or user.get("protocol") or dataset.default_protocol
    names: Settings = {
        "method_name": method_name,
        "preset": preset,
        "dataset_name": normalise(request.dataset),
        "protocol": protocol_name(dataset, str(protocol)),
        "recipe": _recipe_name(str(recipe)),
    }
    tuned = tuned_settings(request)
    names["tuned"] = None if tuned is None else tuned.origin(names)
    _refuse_other_names(user, names)
    settings: Settings = {"method": {}, "dataset": {}}
    merge(settings, load_recipe(str(recipe)))
    merge(settings, nested(method.defaults))
    merge(settings, nested(preset_settings(method, preset)))
    merge(settings, user)
    return validate(settings | names, method, dataset)


def validate(settings: Settings, method: Any, dataset: Any) -> RunConfig:
    """Check nested settings against the plugins' models; all problems in one message."""
    return _checked(_model(method.Config, dataset.Config), settings)


def dataset_config(dataset: Any, settings: Settings) -> Any:
    """The settings of a data set alone, given below the key `dataset`."""
    model = create_model("DatasetOnly", __base__=Frozen, dataset=(dataset.Config, ...))
    checked: Any = _checked(model, {"dataset": {}, **settings})
    return checked.dataset


def _checked(model: type[M], settings: Settings) -> M:
    try:
        config = model.model_validate(settings)
    except ValidationError as error:
        problems = explain.problems(model, settings, error)
    else:
        problems = explain.problems(model, settings)
        if not problems:
            return config
    head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
    raise UsageError("\n  ".join([head, *problems]))


@cache
def _model(method: type[BaseModel], dataset: type[BaseModel]) -> type[RunConfig]:
    """`RunConfig` with the plugins' models; one class a pair, so that equal configs are equal."""
    return create_model(
        "RunConfig", __base__=RunConfig, method=(method, ...), dataset=(dataset, ...)
    )


def rebuild(stored: Settings) -> RunConfig:
    """The `RunConfig` of a stored `config.json`."""
    return validate(stored, METHODS[stored["method_name"]], DATASETS[stored["dataset_name"]])


def preset_settings(method: Any, preset: str | None) -> Settings:
    """The dotted settings of a preset, an ablation or a composition; several joined by "+"."""
    settings: Settings = {}
    parts = [normalise(part) for part in preset.split("+")] if preset else []
    if len(set(parts)) < len(parts):
        raise UsageError(f"{method.info.name}@{preset} names a preset twice. Name each once.")
    for part in parts:
        known = {name: row for name, (_, row) in COMPOSITIONS.items()}
        known |= {n: p.settings for n, p in {**method.ablations, **method.presets}.items()}
        name = normalise(part)
        if name not in known:
            raise UsageError(suggest(f"preset of {method.info.name}", name, sorted(known)))
        clashes = [
            key for key in known[name] if settings.get(key, known[name][key]) != known[name][key]
        ]
        if clashes:
            raise UsageError(
                f"Presets {preset} of {method.info.name} cannot be joined: they give "
                f"{', '.join(clashes)} different values."
            )
        settings |= known[name]
    return settings


def protocol_name(dataset: Any, name: str) -> str:
    """The name of a data set's protocol, which may be written with hyphens or underscores."""
    by_plain: dict[str, str] = {normalise(known): known for known in dataset.protocols}
    if normalise(name) not in by_plain:
        kind = f"protocol of {dataset.info.name}"
        raise UsageError(suggest(kind, name, sorted(dataset.protocols)))
    return by_plain[normalise(name)]


def _recipe_name(name: str) -> str:
    """How a configuration names its recipe: of a file not its folder, which decides nothing."""
    return Path(name).name if is_file(name) else normalise(name)


def _refuse_other_names(user: Settings, names: Settings) -> None:
    """A stored `config.json` may serve as `--config`, but not for another method or data set."""
    flags = {
        "method_name": "--method",
        "preset": "--method NAME@PRESET",
        "dataset_name": "--dataset",
        "tuned": "--tuned FILE",
    }
    for key, flag in flags.items():
        if key in user and user[key] != names[key]:
            raise UsageError(
                f"{key}: the settings say '{user[key]}', the command '{names[key]}'. It is no "
                f"setting; choose with {flag}."
            )


def asked(request: Request) -> list[str]:
    """Dotted names of all settings the user gave, changed or not."""
    return sorted(flat(user_layers(request)))


def user_layers(request: Request) -> Settings:
    """The settings that the user gave, nested: tuned file, then YAML file, then flags."""
    user: Settings = {}
    tuned = tuned_settings(request)
    if tuned is not None:
        merge(user, tuned.settings)
    merge(user, _over_tuned(request))
    return user


def tuned_settings(request: Request) -> TunedSettings | None:
    """The file of tuned settings that a request means; None where it names none.

    Raises:
        UsageError: it cannot be read, or a folder has none for this method.
    """
    file = request.tuned_file
    if file is None or not file.is_dir():
        return None if file is None else read_tuned(file)
    dataset = DATASETS[request.dataset]
    given = request.protocol or _over_tuned(request).get("protocol") or dataset.default_protocol
    name, preset = _method_and_preset(request)
    label = f"{name}@{preset}" if preset else name
    return read_tuned_of(
        file,
        dataset=normalise(request.dataset),
        protocol=protocol_name(dataset, str(given)),
        method=label,
    )


def _over_tuned(request: Request) -> Settings:
    user = read_settings(request.config_file) if request.config_file is not None else {}
    merge(user, nested(request.settings))
    return user


def _method_and_preset(request: Request) -> tuple[str, str | None]:
    name, _, presets = (normalise(part) for part in request.method.partition("@"))
    # One order, so that ce@mixup+sqrt and ce@sqrt+mixup are the same run.
    return name, "+".join(sorted(presets.split("+"))) or None
