"""What a grid is: methods x data sets x protocols x settings x seeds, from flags or a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ltbench.config import Request
from ltbench.errors import UsageError
from ltbench.registry import DATASETS, METHODS, normalise
from ltbench.settings import flat, parse_names, parse_seeds, read_settings

__all__ = ["ALL_METHODS", "GridSpec", "Override", "read_grid"]

ALL_METHODS = "all"
DEFAULT_SEEDS = (0, 1, 2, 3, 4)


def _names(value: Any) -> Any:
    """`a,b` as well as a list."""
    return parse_names(value) if isinstance(value, str) else value


def _seeds(value: Any) -> Any:
    """`0-4` as well as a list or one number."""
    if isinstance(value, str):
        return parse_seeds(value, None)
    return [value] if isinstance(value, int) else value


def _dotted(value: Any) -> Any:
    """Nested settings by dotted names."""
    return flat(value) if isinstance(value, Mapping) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Dotted = Annotated[dict[str, Any], BeforeValidator(_dotted)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Override(_Spec):
    """Settings of some cells only; a filter that is left out lets every cell through.

    A method is named with its preset or without, which then means all of its presets.
    """

    methods: Names = ()
    datasets: Names = ()
    protocols: Names = ()
    settings: Dotted

    def fits(self, method: str, dataset: str, protocol: str | None) -> bool:
        """Whether a cell has these settings."""
        plain = normalise(method)
        return (
            _among({plain, plain.partition("@")[0]}, self.methods)
            and _among({normalise(dataset)}, self.datasets)
            and (not self.protocols or _among({_protocol(dataset, protocol)}, self.protocols))
        )


class GridSpec(_Spec):
    """A grid. As YAML a file of it may hold what the flags of `sweep` say, and more.

    Attributes:
        methods: names, with presets or without; `all` for every method there is.
        protocols: of every data set; without any, each data set's default.
        settings: of all cells, by dotted name.
        vary: one more axis each: a setting's dotted name and its values.
        overrides: settings of some cells; later ones win, and all of them over `settings`.
        config: a file of settings, weaker than `settings`.
        tuned: a file of tuned settings, or a folder with `<dataset>/<protocol>/<method>.yaml`.
    """

    methods: Annotated[Names, Field(min_length=1)]
    datasets: Annotated[Names, Field(min_length=1)]
    protocols: Names = ()
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1)] = DEFAULT_SEEDS
    recipe: str | None = None
    settings: Dotted = {}
    vary: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    overrides: tuple[Override, ...] = ()
    config: Path | None = None
    tuned: Path | None = None

    @model_validator(mode="after")
    def _seeds_are_an_axis(self) -> GridSpec:
        given = [self.settings, self.vary, *(one.settings for one in self.overrides)]
        if any("seed" in settings for settings in given):
            raise ValueError("seed is no setting of a grid: say `seeds: 0-4`, or --seeds 0-4")
        return self

    @property
    def wants_all_methods(self) -> bool:
        """Whether methods that do not fit a data set are left out, not refused."""
        return self.methods == (ALL_METHODS,)

    def requests(self) -> list[Request]:
        """One request a configuration, without the seed; data sets outermost, methods innermost."""
        methods = METHODS.names() if self.wants_all_methods else self.methods
        protocols: Sequence[str | None] = self.protocols or [None]
        rows = [
            (method, dataset, protocol)
            for dataset in dict.fromkeys(self.datasets)
            for protocol in dict.fromkeys(protocols)
            for method in dict.fromkeys(methods)
        ]
        self._refuse_idle_overrides(rows)
        return [
            self._request(method, dataset, protocol, varied)
            for (dataset, protocol), group in itertools.groupby(rows, key=lambda row: row[1:])
            for same in [[method for method, *_ in group]]
            for varied in self._variations()
            for method in same
        ]

    def _refuse_idle_overrides(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """A name that is misspelt in an override would else change nothing, unseen."""
        for number, override in enumerate(self.overrides):
            if not any(override.fits(*row) for row in rows):
                filters = override.model_dump(exclude={"settings"}, exclude_defaults=True)
                told = ", ".join(f"{key} {'/'.join(names)}" for key, names in filters.items())
                raise UsageError(
                    f"overrides.{number} ({told}) fits no cell of the grid. Mend its names, or "
                    "leave it out."
                )

    def _request(
        self, method: str, dataset: str, protocol: str | None, varied: Mapping[str, Any]
    ) -> Request:
        settings = {**self.settings, **varied}
        for override in self.overrides:
            if override.fits(method, dataset, protocol):
                settings |= override.settings
        return Request(
            *(method, dataset, protocol, self.recipe, settings),
            config_file=self.config,
            tuned_file=self.tuned,
        )

    def _variations(self) -> Iterable[dict[str, Any]]:
        for values in itertools.product(*self.vary.values()):
            yield dict(zip(self.vary, values, strict=True))


def _protocol(dataset: str, protocol: str | None) -> str:
    """The protocol's name; without one the data set's default."""
    if protocol is None and dataset in DATASETS:
        protocol = DATASETS[dataset].default_protocol
    return normalise(protocol or "")


def read_grid(file: Path | None, flags: Mapping[str, Any]) -> GridSpec:
    """The grid of a YAML file with what flags say laid over it.

    Args:
        flags: by field of `GridSpec`; None where the flag was not given. `settings` are laid over
            the file's one by one, and over its overrides.

    Raises:
        UsageError: every problem at once.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    loaded: dict[str, Any] = {} if file is None else dict(read_settings(file))
    settings = given.pop("settings", {})
    merged = {**loaded, **given}
    below = loaded.get("settings") or {}
    merged["settings"] = {**flat(below), **settings} if isinstance(below, Mapping) else below
    if "vary" in loaded and isinstance(loaded["vary"], Mapping):
        # A flag fixes what the file would vary.
        axes = flat(loaded["vary"])
        merged["vary"] = {key: values for key, values in axes.items() if key not in settings}
    if settings and isinstance(loaded.get("overrides"), list):
        merged["overrides"] = [*loaded["overrides"], {"settings": settings}]
    try:
        return GridSpec.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_problems(file, error)) from error


def _problems(file: Path | None, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "missing":
            lines.append(f"{where} is missing: give --{where} or `{where}:` in a grid file")
        elif problem["type"] == "extra_forbidden":
            known = ", ".join(GridSpec.model_fields)
            lines.append(f"{where} is no part of a grid. Known: {known}")
        else:
            lines.append(f"{where}: {problem['msg']}; got {problem['input']!r}")
    origin = f" in {file}" if file is not None else ""
    head = f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in the grid{origin}:"
    return "\n  ".join([head, *lines])


def _among(names: set[str], wanted: Sequence[str]) -> bool:
    return not wanted or bool(names & {normalise(one) for one in wanted})
