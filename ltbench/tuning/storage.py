"""Where studies are kept: an SQLite file for one machine, a PostgreSQL server for many."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from ltbench.errors import DataMissingError, RunFailedError, UsageError
from ltbench.files import storage_errors

__all__ = ["Timing", "open_storage", "shown", "storage_faults", "storage_url"]

# Optuna and SQLAlchemy say `postgresql`, which is the older driver.
_DRIVER = "postgresql+psycopg"
_PACKAGES = {
    "psycopg": "pip install -e '.[postgres]' (or: pip install 'psycopg[binary]>=3.2')",
    "psycopg2": "write postgresql:// without a driver, which takes psycopg 3",
}
_SQLITE_WAIT_S = 120.0
_CONNECT_S = 10
# Several processes that meet an empty database all make its tables; all but one are refused.
_TRIES = 10


@dataclass(frozen=True)
class Timing:
    """How workers know of each other.

    Attributes:
        heartbeat_s: pause between the signs of life of a running trial.
        grace_s: after so long without one a trial counts as abandoned. Only for workers of other
            machines: of this one's the process table tells.
        poll_s: pause between two looks while other workers hold all places.
    """

    heartbeat_s: int = 30
    grace_s: int = 150
    poll_s: float = 1.0


class _Storage(RDBStorage):
    """Optuna's, whose heart does not stop where the database is away for a moment."""

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; one that is missed does no harm, and the trial itself meets the fault."""
        with suppress(SQLAlchemyError, StorageInternalError):
            super().record_heartbeat(trial_id)


def storage_url(text: str | None, folder: Path) -> URL:
    """The URL a user means; the SQLite file in `folder` unless given.

    Raises:
        UsageError: it is no database URL, or an SQLite file in a folder that is missing.
    """
    if text is None:
        return URL.create("sqlite", database=str(folder / "studies.db"))
    try:
        url = make_url(text)
    except ArgumentError as error:
        # The text is not repeated: it may hold a password.
        raise UsageError(
            "--storage: expected a database URL, such as sqlite:///studies.db or "
            "postgresql://user@host/database; this is none."
        ) from error
    parent = _folder_of(url)
    if parent is not None and not parent.is_dir():
        raise UsageError(
            f"--storage {shown(url)}: the folder {parent} is missing. Expected that of an SQLite "
            "file to be there; make it, or correct the path (sqlite:////four/slashes is absolute)."
        )
    return url.set(drivername=_DRIVER) if url.drivername in ("postgresql", "postgres") else url


def shown(url: URL) -> str:
    """The URL for people: without its password."""
    plain = url.set(drivername="postgresql") if url.drivername == _DRIVER else url
    return plain.render_as_string(hide_password=True)


def _folder_of(url: URL) -> Path | None:
    """Of an SQLite file; None for a server, and where SQLite has no file or a URI of its own."""
    name = url.database
    if url.drivername.partition("+")[0] != "sqlite" or name in (None, "", ":memory:"):
        return None
    return None if str(name).startswith("file:") else Path(str(name)).parent


def open_storage(url: URL, timing: Timing | None = None) -> RDBStorage:
    """Connect, making the tables where they are missing.

    Raises:
        UsageError, DataMissingError, RunFailedError: no such kind of database, its package is
            missing, or it does not answer.
    """
    timing = timing or Timing()
    folder = _folder_of(url)
    if folder is not None:
        with storage_errors(folder, "--storage"):
            folder.mkdir(parents=True, exist_ok=True)
    with _messages(url):
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                return _connected(url, timing)
            except SQLAlchemyError as error:
                if last or not _was_overtaken(error):
                    raise
                time.sleep(0.5)
    raise AssertionError("not reached")


def _connected(url: URL, timing: Timing) -> RDBStorage:
    text = url.render_as_string(hide_password=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeat
        return _Storage(
            text.replace("{", "{{").replace("}", "}}"),  # Optuna fills in its schema's version
            engine_kwargs=_engine_arguments(url),
            heartbeat_interval=timing.heartbeat_s,
            grace_period=timing.grace_s,
        )


def _engine_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _SQLITE_WAIT_S}}
    arguments: dict[str, Any] = {"pool_pre_ping": True}  # a trial takes longer than servers wait
    if url.get_backend_name() == "postgresql":
        arguments["connect_args"] = {"connect_timeout": _CONNECT_S}
    return arguments


def _was_overtaken(error: SQLAlchemyError) -> bool:
    overtaken = isinstance(error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError)
    return overtaken or "already exists" in str(error)


@contextmanager
def _messages(url: URL) -> Iterator[None]:
    """One message for what goes wrong when a database is opened."""
    try:
        yield
    except NoSuchModuleError as error:
        raise UsageError(
            f"--storage {shown(url)}: '{url.drivername}' is no kind of database that SQLAlchemy "
            "knows. Use sqlite:///FILE or postgresql://USER@HOST/DATABASE."
        ) from error
    except ImportError as error:
        package = url.get_driver_name()
        how = _PACKAGES.get(package, f"install the package '{package}'")
        raise DataMissingError(
            f"--storage {shown(url)} needs the package '{package}', which is not installed: {how}."
        ) from error
    except OperationalError as error:
        raise RunFailedError(
            f"The storage {shown(url)} does not answer: {_reason(url, error)}. Nothing was "
            "trained. Check that the server runs, that the database exists, and the URL."
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        # RuntimeError is Optuna's, for tables that another version of it made.
        raise RunFailedError(
            f"The storage {shown(url)} cannot be used: {_reason(url, error)}"
        ) from error


@contextmanager
def storage_faults(url: URL) -> Iterator[None]:
    """One message where the database fails while trials run.

    Raises:
        RunFailedError: it did.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise RunFailedError(
            f"The storage {shown(url)} failed: {_reason(url, error)}. What was under way keeps its "
            "last checkpoint; run the same command again to go on."
        ) from error


def _reason(url: URL, error: BaseException) -> str:
    """The first line of what the driver says, and never the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    text = str(getattr(cause, "orig", None) or cause or error).strip().splitlines()[0]
    return text.replace(url.password, "***") if isinstance(url.password, str) else text
