"""Claims: of all processes that see a run folder, on one machine or many, one works in it.

A claim is a file `claim-<generation>.json`, made with O_EXCL, which holds on network file systems
where locks do not. The highest generation owns the folder. Whoever finds a dead or released
generation n takes over by making n + 1: of several takers exactly one succeeds, and nothing is
renamed or removed to get there. Generations never go back while there is work to do, so a process
that slept between looking and acting finds its number taken or overtaken, never free once more: a
release leaves `claim-<generation>.released` behind until the work is done.

A holder is dead at once when its process is known to be gone: same host, same boot, same process
namespace, and no process of that number and start time. Otherwise it is dead when its file, touched
by a heartbeat, has stood still while we watched. Clocks of two machines are never compared.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ltbench.errors import ClaimLostError, InterruptedRunError, LtbenchError
from ltbench.files import canonical_json, read_stamped, storage_errors, sync_folder
from ltbench.owner import Owner
from ltbench.results import run_folders

HEARTBEAT_S: Final = 15.0
# Longer than a missed heartbeat and the minute for which an NFS client may show old times.
DEAD_AFTER_S: Final = 120.0
# A person who asks to stop does not wait for the next look.
_STOP_POLL_S: Final = 0.2

_LOG = logging.getLogger(__name__)
_PATTERN = re.compile(r"claim-(\d{6,})\.(json|released)")
# What a path showed, when we looked last, and how long it had stood still by our monotonic clock.
# Shared by all calls, so that a grid which passes by now and then finds dead machines too.
_SEEN: dict[Path, tuple[object, float, float]] = {}
# Of our own: waiting must not move the random numbers of the process that trains.
_JITTER = random.Random()

State = Literal["free", "held", "dead"]
Done = Callable[[], bool]
Stop = Callable[[], int | None]


@dataclass(frozen=True)
class _Look:
    """What one look at a folder found: its highest generation and who owns it."""

    state: State
    generation: int = 0
    owner: Owner | None = None

    @property
    def description(self) -> str:
        return str(self.owner or f"a process that has not written {_name(self.generation)} whole")


class Ticket(NamedTuple):
    """The proof of a claim, to hand to processes that work for its owner."""

    folder: Path
    generation: int
    token: str


class Claim:
    """A folder that is ours until `release`, or until another process takes us for dead.

    Use it as a context manager and call `check` before each write that another owner's work could
    meet. Between a check and the write a process may still be suspended for minutes; whole files
    written atomically make that harmless.
    """

    def __init__(
        self, folder: Path, generation: int, token: str, *, heartbeat_s: float, done: Done | None
    ) -> None:
        self.folder = folder
        self.generation = generation
        self.path = folder / _name(generation)
        self.lost = False  # set once it is known that another process owns the folder
        self._token = token
        self._heartbeat_s = heartbeat_s
        self._done = done
        # Forked children inherit this object, and neither own the claim nor may release it.
        self._pid = os.getpid()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"claim {folder}", daemon=True)
        self._heart.start()

    @property
    def ticket(self) -> Ticket:
        """What another process needs to `check` this claim; picklable."""
        return Ticket(self.folder, self.generation, self._token)

    def check(self) -> None:
        """Look whether the claim still holds.

        Raises:
            RunFailedError: it does not, or the folder cannot be read; write nothing more.
        """
        with storage_errors(self.folder):
            held = not self.lost and not self._released.is_set() and self._holds()
        if not held:
            self.lost = True
            raise _lost(self.ticket)

    def release(self) -> None:
        """Give the folder free. Does nothing the second time, or in a child of the owner."""
        if os.getpid() != self._pid or self._released.is_set():
            return
        self._released.set()
        # A heartbeat may hang in a network file system; it does no harm when it comes late.
        self._heart.join(timeout=5.0)
        try:
            if self.lost or not self._holds():
                return
            if self._is_done():
                # Nobody starts on work that is done, so the count of generations may end here.
                _remove_below(self.folder, self.generation)
                self.path.unlink(missing_ok=True)
            else:
                os.rename(self.path, self.path.with_suffix(".released"))
        except OSError as error:
            _LOG.warning("%s stays until this process ends: %s", self.path, error)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _holds(self) -> bool:
        return _owns(self.folder, self.generation, self._token)

    def _is_done(self) -> bool:
        try:
            return self._done is not None and self._done()
        except (LtbenchError, OSError):
            return False

    def _beat(self) -> None:
        while not self._released.wait(self._heartbeat_s):
            # Where the storage is away for a moment, `check` tells when it matters.
            with suppress(OSError):
                if not self._holds():
                    self.lost = not self._released.is_set()
                    return
                os.utime(self.path)


def acquire(
    folder: Path,
    *,
    wait: bool,
    on_wait: Callable[[str], None] | None = None,
    poll_s: float = 2.0,
    done: Done | None = None,
    stop: Stop | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    dead_after_s: float = DEAD_AFTER_S,
) -> Claim | None:
    """Claim a folder, which is made where it is missing.

    Args:
        folder: the run folder.
        wait: until the folder is free, or its work is done by another process.
        on_wait: told who holds the folder, once for each holder.
        poll_s: pause between two looks while waiting.
        done: whether the work is done, e.g. `RunFolder.is_done`; asked before and after claiming.
        stop: asked while waiting, where signals are only noted; a signal's number ends the wait.
        heartbeat_s: pause between two heartbeats of the claim.
        dead_after_s: how long a heartbeat of another machine stands still before it counts as dead.

    Returns:
        The claim; None where the work is done, or where another process is at it and `wait` is off.

    Raises:
        RunFailedError: the storage is full.
        UsageError: the folder is read-only.
        InterruptedRunError: `stop` gave a signal.
    """
    finished = done or (lambda: False)
    told = ""
    while not finished():
        look = _look(folder, dead_after_s)
        if look.state != "held":
            claim = _make(folder, look.generation + 1, heartbeat_s, done)
            if claim is not None:
                # The owner before us may have finished between our last look and our claim.
                if not claim._is_done():
                    return claim
                claim.release()
                continue
        elif on_wait is not None and look.description != told:
            told = look.description
            on_wait(told)
        if not wait:
            return None
        _pause(poll_s * _JITTER.uniform(0.75, 1.25), stop, look)
    return None


def _pause(seconds: float, stop: Stop | None, look: _Look) -> None:
    if stop is None:
        time.sleep(seconds)
        return
    end = time.monotonic() + seconds
    while (signal := stop()) is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(_STOP_POLL_S, left))
    if signal is not None:
        raise InterruptedRunError(
            f"Stopped by signal {signal} while waiting for {look.description}; nothing was begun. "
            "Run the same command again to go on.",
            signal,
        )


def holder(folder: Path) -> str | None:
    """Who is at work in a folder, for people to read; None where nobody is."""
    look = _look(folder, DEAD_AFTER_S)
    return look.description if look.state == "held" else None


class DeadClaim(NamedTuple):
    """A claim whose owner is gone. `acquire(folder, wait=False)` and `release` clear it safely."""

    folder: Path
    description: str


def dead_claims(
    root: Path, *, observe_s: float = 0.0, dead_after_s: float = DEAD_AFTER_S
) -> Iterator[DeadClaim]:
    """Run folders below the results folder `root` whose owner is dead.

    Args:
        root: the results folder.
        observe_s: how long to watch the claims of other machines. At 0 only those of this machine
            are found; a little over `dead_after_s` finds all.
        dead_after_s: as in `acquire`.
    """
    waiting = [run.path for run in run_folders(root)]
    end = time.monotonic() + observe_s
    while waiting:
        looks = {folder: _look(folder, dead_after_s) for folder in waiting}
        for folder, look in looks.items():
            if look.state == "dead":
                yield DeadClaim(folder, look.description)
        pause = min(dead_after_s / 8, end - time.monotonic())
        if pause <= 0:
            return
        waiting = [folder for folder, look in looks.items() if look.state == "held"]
        time.sleep(pause)


def _still_s(path: Path, sign: object, longest_gap_s: float) -> float:
    """Note that `path` shows `sign` now; returns for how long it has shown the same.

    A gap between two looks counts for `longest_gap_s` at most: if this process was suspended or the
    file server was away, the owner gets the time to beat again before it is called dead.
    """
    now = time.monotonic()
    before, last, still = _SEEN.get(path, (None, now, 0.0))
    still = still + min(now - last, longest_gap_s) if before == sign else 0.0
    _SEEN[path] = (sign, now, still)
    return still


def _look(folder: Path, dead_after_s: float) -> _Look:
    with storage_errors(folder):
        generations = _generations(folder)
        generation, released = generations[-1][:2] if generations else (0, True)
        path = folder / _name(generation)
        found = None if released else read_stamped(path)
    if found is None:
        # Not released yet gone: overtaken or released since we listed, and the next look tells.
        return _Look("free" if released else "held", generation)
    owner = Owner.read(found[0])
    alive = owner.is_alive() if owner else None
    if alive is None:
        alive = _still_s(path, found, dead_after_s / 4) < dead_after_s
    return _Look("held" if alive else "dead", generation, owner)


def _make(folder: Path, generation: int, heartbeat_s: float, done: Done | None) -> Claim | None:
    """Try to own `generation`; None where another process owns it or a higher one."""
    owner = Owner.here()
    path = folder / _name(generation)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return None
        owned = False
        try:
            with open(descriptor, "wb") as file:
                file.write(canonical_json(asdict(owner)).encode())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(folder)
            # We may have slept since we looked, and made a number that was used and removed.
            owned = _owns(folder, generation, owner.token)
        finally:
            if not owned:
                with suppress(OSError):
                    path.unlink()
    if not owned:
        return None
    _remove_below(folder, generation)
    return Claim(folder, generation, owner.token, heartbeat_s=heartbeat_s, done=done)


def check(ticket: Ticket) -> None:
    """`Claim.check` in a process that works for the claim's owner.

    Raises:
        RunFailedError: the claim does not hold any more; write nothing more.
    """
    with storage_errors(ticket.folder):
        held = _owns(ticket.folder, ticket.generation, ticket.token)
    if not held:
        raise _lost(ticket)


def _lost(ticket: Ticket) -> ClaimLostError:
    return ClaimLostError(
        f"The claim on {ticket.folder} was lost: expected to own {_name(ticket.generation)}, but "
        "another process took this one for dead, or the folder was cleaned. This process stops "
        "before it writes; what it had written is kept. See `bench.py status`."
    )


def _owns(folder: Path, generation: int, token: str) -> bool:
    generations = _generations(folder)
    if not generations or generations[-1][:2] != (generation, False):
        return False
    found = read_stamped(folder / _name(generation))
    owner = Owner.read(found[0]) if found else None
    return owner is not None and owner.token == token


def _name(generation: int) -> str:
    return f"claim-{generation:06d}.json"


def _generations(folder: Path) -> list[tuple[int, bool, str]]:
    """Generation, whether released, file name. A number once released stays released."""
    try:
        matches = [_PATTERN.fullmatch(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    return sorted((int(m[1]), m[2] == "released", m[0]) for m in matches if m)


def _remove_below(folder: Path, generation: int) -> None:
    # What stays behind is only untidy: the highest generation alone counts.
    with suppress(OSError):
        for number, _, name in _generations(folder):
            if number < generation:
                (folder / name).unlink(missing_ok=True)
