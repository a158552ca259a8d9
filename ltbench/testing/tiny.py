"""Tiny runs: a method trained whole through the runner, in seconds, for tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ltbench.config import Request
from ltbench.errors import InterruptedRunError
from ltbench.registry import add_plugins
from ltbench.runner import BEST_WEIGHTS, Outcome, Place, run

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
    method: str, settings: Mapping[str, Any] | None = None, dataset: str = "toy_blobs"
) -> Request:
    """A run of seconds on `toy_blobs`."""
    add_plugins([TOY_BLOBS])
    return Request(method=method, dataset=dataset, settings={**TINY, **(settings or {})})


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
