"""Tiny runs: a method trained whole through the runner, in seconds, for tests."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from ltbench.config import Request, flat, resolve
from ltbench.errors import InterruptedRunError, UsageError
from ltbench.registry import METHODS, add_plugins
from ltbench.results import BEST_WEIGHTS
from ltbench.run_config import RunConfig
from ltbench.runner import Outcome, Place, run
from ltbench.stage_reuse import STAGES
from ltbench.training.checkpoint import load_checkpoint

TOY_BLOBS = Path(__file__).with_name("toy_blobs.py")

TINY: Mapping[str, Any] = {
    "epochs": 4,
    "batch_size": 8,
    "eval_batch_size": 16,
    "backbone": "resnet8_cifar",
    "machine.threads": 1,
    "optimizer.lr": 0.05,
}


def tiny_request(
    method: str,
    settings: Mapping[str, Any] | None = None,
    dataset: str = "toy_blobs",
    tuned_file: Path | None = None,
) -> Request:
    """A run of seconds on `toy_blobs`."""
    add_plugins([TOY_BLOBS])
    all_settings = {**TINY, **(settings or {})}
    return Request(method=method, dataset=dataset, settings=all_settings, tuned_file=tuned_file)


def tiny_run(
    method: str,
    results: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[Path] = (),
    stop_signal: Callable[[], int | None] | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> Outcome:
    """Run it."""
    add_plugins(plugins)
    place = Place(
        results=results,
        plugins=(TOY_BLOBS, *plugins),
        stop_signal=stop_signal,
        on_epoch=on_epoch,
    )
    return run(tiny_request(method, settings), place)


def interrupted_run(
    method: str,
    results: Path,
    stops: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[Path] = (),
) -> Outcome:
    """The same run, stopped after each of `stops` looks at the signal, and started again each time.

    The trainer looks once after every step but an epoch's last, and once after every epoch.
    """
    for looks in stops:
        left = iter([None] * looks + [int(signal.SIGTERM)])
        try:
            tiny_run(
                method,
                results,
                settings,
                plugins=plugins,
                stop_signal=lambda left=left: next(left, None),  # type: ignore[misc]
            )
        except InterruptedRunError:
            continue
        raise AssertionError(f"the run was over before {looks} looks at the signal")
    return tiny_run(method, results, settings, plugins=plugins)


def weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    """The reported model's state dict."""
    state: dict[str, torch.Tensor] = torch.load(
        outcome.folder.path / BEST_WEIGHTS, weights_only=True
    )
    return state


def other_value(request: Request, key: str) -> Any:
    """A value that a dotted setting takes beside the one it has."""
    now = flat(resolve(request).model_dump(mode="json"))[key]
    for value in (*_options(request, key), *_numbers(now)):
        settings = {**request.settings, key: value}
        try:
            then = flat(resolve(replace(request, settings=settings)).model_dump(mode="json"))[key]
        except UsageError:
            continue
        if then != now:
            return value
    raise AssertionError(f"no other value of {key} than {now} was found")


def _options(request: Request, key: str) -> list[Any]:
    """The values of a setting that lists them."""
    owner, _, name = key.rpartition(".")
    method = METHODS[request.method.partition("@")[0]]
    model = method.Config if owner == "method" else RunConfig
    return _literals(model.model_fields[name].annotation)


def _literals(annotation: Any) -> list[Any]:
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in _literals(part)]


def _numbers(now: Any) -> tuple[float, ...]:
    number = isinstance(now, int | float) and not isinstance(now, bool)
    return (now + 1, now * 2, now / 2) if number else (1, 2, 0.5)


def stages_kept(outcome: Outcome) -> dict[str, dict[str, torch.Tensor]]:
    """What the method was when each stage but the first began: its state dict by stage."""
    key, seed = outcome.folder.path.parts[-2:]
    results = outcome.folder.path.parents[4]
    kept = {}
    for origin in sorted((results / STAGES).glob(f"*/{seed}/origin.json")):
        told = json.loads(origin.read_text(encoding="utf-8"))
        if told["run"] == f"{key}/{seed}":
            kept[told["before"]] = load_checkpoint(origin.with_name("state.pt"))["method"]
    return kept
