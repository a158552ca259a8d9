"""Runs in processes of their own: on two devices in one launch, and as commands to be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from ltbench import cli
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.errors import InterruptedRunError
from ltbench.files import write_json
from ltbench.launchers.local import PRELOADED
from ltbench.record import Context
from ltbench.registry import add_plugins
from ltbench.runner import Place, folder_of, run_on_device
from ltbench.testing.tiny import TOY_BLOBS, tiny_request
from ltbench.training.worker import Tell
from ltbench.workers import on_devices

Digests = dict[str, dict[str, Any]]


def command(arguments: Sequence[str], output: Path) -> None:
    """`bench.py` with these arguments, what it prints going to a file: a process's whole work.

    A target for `multiprocessing`, whose fork server imports torch once for many commands.
    """
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    cli.main(list(arguments))


class Command:
    """`bench.py` in a process of its own, forked from one that has imported torch."""

    def __init__(self, words: Sequence[str], output: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ltbench.testing.processes", *PRELOADED])
        self.output = output
        self.process = context.Process(target=command, args=(words, output))
        self.process.start()

    def signal(self, number: int) -> Command:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self

    def exit_code(self, within_s: float = 120) -> int:
        """Wait for its end."""
        self.process.join(within_s)
        assert self.process.exitcode is not None, self.text()
        return self.process.exitcode

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""


def two_process_digests(
    methods: Sequence[str],
    results: Path,
    settings: Mapping[str, Any],
    *,
    plugins: Sequence[Path] = (),
) -> Digests:
    """{method: {"whole": digest, "resumed": digest, "states": a digest of each device's weights}}.

    The resumed run is stopped once, by a signal on the first device alone, at the first look.
    """
    settings = {**settings, "machine.devices": 2}
    add_plugins(plugins)
    config = resolve(tiny_request(methods[0], settings))
    files = (TOY_BLOBS, *plugins)
    on_devices(config, partial(_in_worker, tuple(methods), results, settings, files))
    return {
        method: json.loads((results / f"{method}.json").read_text(encoding="utf-8"))
        for method in methods
    }


def _in_worker(
    methods: Sequence[str],
    results: Path,
    settings: Mapping[str, Any],
    plugins: tuple[Path, ...],
    fabric: Fabric,
    _tell: Tell,
) -> None:
    add_plugins(plugins)
    for method in methods:
        whole, states = _train(method, results / "whole", settings, fabric, looks=None)
        try:
            _train(method, results / "resumed", settings, fabric, looks=0)
        except InterruptedRunError:
            resumed, _ = _train(method, results / "resumed", settings, fabric, looks=None)
        else:
            raise AssertionError(f"{method} was not stopped")
        if fabric.is_global_zero:
            found = {"whole": whole, "resumed": resumed, "states": states}
            write_json(results / f"{method}.json", found)


def _train(
    method: str, results: Path, settings: Mapping[str, Any], fabric: Fabric, looks: int | None
) -> tuple[str, list[float]]:
    config = resolve(tiny_request(method, settings))
    cell = prepare(config, results=results, data_root=None)
    stops = looks is not None and fabric.is_global_zero
    left = iter([None] * (looks or 0) + [int(signal.SIGTERM)]) if stops else iter(())
    place = Place(results=results, stop_signal=lambda: next(left, None))
    folder = folder_of(cell, results)
    folder.create()
    trained = run_on_device(fabric, cell, folder, place, Context(method, ""), lambda: None)
    total = torch.stack([v.double().abs().sum() for v in trained.state_dict().values()]).sum()
    sums: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(sums, float(total))
    return folder.record()["digest"], sums
