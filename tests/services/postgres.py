"""A PostgreSQL server of the test's own: Debian's package, a folder in /tmp, a loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "qu1te-{secret}"  # with what Optuna would take for a place to fill in
_ROLE, _DATABASE = "studies", "postgres"


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that lives as long as the context."""
    # PostgreSQL refuses to run as root, and must be able to reach its folder.
    account = {"user": "postgres", "group": "postgres", "extra_groups": []}
    account = account if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="ltbench-postgres-", dir="/tmp"))
    if account:
        shutil.chown(folder, "postgres", "postgres")
    port = _free_port()
    data, log = folder / "data", folder / "log.txt"
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)

    def call(name: str, *words: object) -> None:
        command = [str(_program(name)), *map(str, words)]
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **account,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"

    options = (
        f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    )
    try:
        call("initdb", "-D", data, "-U", _ROLE, "--pwfile", secret, "-A", "scram-sha-256", "-N")
        call("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://{_ROLE}:{PASSWORD}@127.0.0.1:{port}/{_DATABASE}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> Path:
    """Debian keeps the server's programs beside its versions, not on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    on_path = shutil.which(name)
    if on_path:
        return Path(on_path)
    assert found, f"{name} was not found; install PostgreSQL (Debian: apt-get install postgresql)"
    return found[-1]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
