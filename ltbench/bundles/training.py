"""One run in a process of its own: `python -m ltbench.bundles.training JOB.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ltbench.cell import prepare
from ltbench.config import rebuild
from ltbench.errors import LtbenchError
from ltbench.files import read_json
from ltbench.record import Context
from ltbench.registry import import_plugins
from ltbench.runner import Place, folder_of, run_on_device
from ltbench.training.devices import make_fabric, settle


def train(job: dict[str, Any]) -> None:
    """Train the run that a job describes: the very configuration, whatever made it."""
    import_plugins([Path(file) for file in job["plugins"]])
    config = rebuild(job["config"])
    settle(config)
    results = Path(job["results"])
    data_root = None if job["data_root"] is None else Path(job["data_root"])
    cell = prepare(config, results=results, data_root=data_root)
    folder = folder_of(cell, results)
    folder.create()
    place = Place(results, data_root, resume="never")
    context = Context(job["label"], "")
    run_on_device(make_fabric(cell.config), cell, folder, place, context, lambda: None)


if __name__ == "__main__":
    try:
        train(read_json(Path(sys.argv[1])))
    except LtbenchError as error:
        sys.exit(f"error: {error}")
