"""Who a process is, and whether it still lives: told apart by host, boot, number and start time."""

from __future__ import annotations

import functools
import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """Who made a claim. `boot`, `namespace` and `started` are None where the system hides them."""

    host: str
    boot: str | None
    namespace: str | None
    pid: int
    started: str | None
    token: str
    since: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        process = process_state(os.getpid())
        return cls(
            *machine(),
            pid=os.getpid(),
            started=process[1] if process else None,
            token=os.urandom(16).hex(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )

    @classmethod
    def read(cls, data: bytes) -> Owner | None:
        """None for an empty or damaged claim: its maker fell between creating and writing it."""
        try:
            owner = cls(**json.loads(data))
            return owner if 0 < owner.pid < 2**31 else None
        except (ValueError, TypeError):
            return None

    def is_alive(self) -> bool | None:
        """What the process table says; None where it cannot say."""
        # Without a boot id, two machines or containers of one name could not be told apart.
        if self.boot is None or (self.host, self.boot, self.namespace) != machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it lives, and is another user's
        process = process_state(self.pid)
        if process is None or self.started is None:
            return None
        state, started = process
        # A zombie has ended and only waits for its parent; another start time is a reused number.
        return state not in "ZX" and started == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@functools.cache
def machine() -> tuple[str, str | None, str | None]:
    """Host, boot and process namespace: processes of which we see the true numbers share all."""
    boot = namespace = None
    with suppress(OSError):
        # Else this /proc numbers processes otherwise than we do, and tells nothing.
        if os.readlink("/proc/self") == str(os.getpid()):
            namespace = os.readlink("/proc/self/ns/pid")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return socket.gethostname(), boot, namespace


def process_state(pid: int) -> tuple[str, str] | None:
    """State and start time (in ticks since boot) of a process; None where they cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name, in brackets, may hold spaces and brackets of its own.
    fields = stat[stat.rindex(b")") + 1 :].decode("ascii").split()
    return fields[0], fields[19]
