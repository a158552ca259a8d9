"""A server of files on this machine, and runs of one epoch through the command line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TINY_RUN = (
    *("--backbone", "resnet8_cifar", "--epochs", "1", "--batch-size", "8", "--weights", "none"),
    *("--set", "machine.threads=1", "--set", "eval_batch_size=16"),
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_parts: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """(a folder, the base URL that its files are served at)."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def one_epoch(bench: Callable[..., object], tmp_path: Path) -> Callable[..., str]:
    """one_epoch("csv", "--data-root", DIR): train ce for an epoch; what the command says."""

    def call(dataset: str, *arguments: object) -> str:
        answer = bench(
            *("run", "--method", "ce", "--dataset", dataset, *TINY_RUN, *arguments),
            *("--results", tmp_path / "results"),
        )
        assert answer.code == 0, answer.out + answer.err
        assert list((tmp_path / "results").rglob("record.json"))
        return answer.out + answer.err

    return call


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data lie unless a root is given: nothing of this machine."""
    folder = tmp_path / "data_home"
    monkeypatch.setenv("LTBENCH_DATA", str(folder))
    return folder
