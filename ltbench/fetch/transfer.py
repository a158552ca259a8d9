"""One file over HTTP, in as many pieces as it takes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from ltbench.errors import DataMissingError, VerificationError
from ltbench.fetch.check import HEAD_BYTES, head_fault
from ltbench.fetch.manifest import RemoteFile, shown, size_text
from ltbench.fetch.place import require_room, writing
from ltbench.fetch.progress import Progress
from ltbench.files import canonical_json, read_json

__all__ = ["Origin", "Part", "TransferError", "WrongContentError", "new_session", "transfer"]

TIMEOUTS_S = (10, 60)  # to connect, and between two pieces of an answer
WAITS_S = (1, 4, 15)  # before each further try of a transfer that broke
NEWS_BYTES = 1 << 20  # a try that brings this much does not count
CHUNK_BYTES = 1 << 17
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})


class TransferError(Exception):
    """A file could not be had from one URL; the message is the reason."""


class RefusedError(TransferError):
    """The server gave nothing."""


class BrokenError(TransferError):
    """The connection ended before the file did."""


class WrongContentError(TransferError):
    """The server gave another file than the one that was meant."""


@dataclass(frozen=True)
class Origin:
    """Where the pieces in a part come from, so that those of another file are not added."""

    url: str
    total: int | None
    etag: str | None
    last_modified: str | None


class Part:
    """The beginning of a file: `<name>.part`, beside it `<name>.part.json` with its origin."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._origin_path = path.with_name(f"{path.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that are here; 0 where it is not known what they are the beginning of."""
        if self.origin is None or not self.path.exists():
            return 0
        return self.path.stat().st_size

    @property
    def origin(self) -> Origin | None:
        """None where it is unknown."""
        try:
            return Origin(**read_json(self._origin_path))
        except (DataMissingError, VerificationError, TypeError):
            return None

    def start(self, origin: Origin | None) -> None:
        """Begin anew; without an origin nothing can be added later."""
        self.discard()
        if origin is not None:
            # A torn one says nothing, and then the part is not used.
            with writing(self.path.parent):
                self._origin_path.write_text(canonical_json(asdict(origin)), encoding="utf-8")

    def discard(self) -> None:
        """Remove what is here."""
        with writing(self.path.parent):
            # The content first: an origin without content is harmless.
            self.path.unlink(missing_ok=True)
            self._origin_path.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        """Give the whole file its name."""
        with writing(path.parent):
            self.path.replace(path)
            self._origin_path.unlink(missing_ok=True)


def new_session() -> requests.Session:
    """A session that asks for files as they are; proxies are those of the environment."""
    session = requests.Session()
    # Between two files lie minutes of unpacking: a kept connection would be dead by then.
    headers = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "ltbench"}
    session.headers.update(headers)
    return session


def transfer(
    session: requests.Session,
    file: RemoteFile,
    url: str,
    part: Part,
    say: Callable[[str], None],
) -> bool:
    """Fill `part` from `url`, going on where it ends.

    A transfer that breaks is taken up again after a wait, as long as each piece brings something.
    Pieces are only added to those of the same file: same URL with the same ETag or date, or another
    mirror with the same size where digests or CRCs would show a mixture.

    Returns:
        Whether it may have been put together of pieces.

    Raises:
        RunFailedError: there is too little room.
        TransferError: it could not be had; what came is kept in `part`.
        UsageError: the folder cannot be written to.
    """
    furthest, waits, answered = part.size, iter(WAITS_S), False
    while not _is_whole(part, file):
        try:
            return _add_piece(session, file, url, part, say)
        except (BrokenError, RefusedError) as error:
            answered = answered or isinstance(error, BrokenError)
            if part.size >= furthest + NEWS_BYTES:
                furthest, waits = part.size, iter(WAITS_S)
            wait_s = next(waits, None)
            if wait_s is None or not answered:
                raise
            say(f"{file.name}: {error}. Trying again in {wait_s} s.")
            time.sleep(wait_s)
    return True


def _is_whole(part: Part, file: RemoteFile) -> bool:
    total = file.size or (part.origin.total if part.origin else None)
    return total is not None and part.size == total


def _add_piece(
    session: requests.Session,
    file: RemoteFile,
    url: str,
    part: Part,
    say: Callable[[str], None],
) -> bool:
    """One request; returns whether its answer was added to what was there."""
    headers = _range_headers(part, file, url)
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUTS_S)
    except requests.RequestException as error:
        raise RefusedError(_reason(error)) from error
    with response:
        if _has_no_more(response, part):
            return True
        adds = _require_answer(response, part, url)
        origin = _origin_of(response, file, url)
        if file.size is not None and origin.total not in (None, file.size):
            raise WrongContentError(f"expected {file.size} bytes, the server has {origin.total}")
        body = _body(response, file)
        if adds:
            _require_same_file(response, part, origin)
            say(f"{file.name}: going on at {size_text(part.size)}.")
        else:
            beginning = _beginning(body)
            # Before anything is thrown away: the page of some portal must not cost the part.
            fault = head_fault(file.name, beginning)
            if fault is not None:
                raise WrongContentError(fault)
            part.start(None if _is_decoded(response, file) else origin)
            body = chain([beginning], body)
        _store(body, file, part, origin.total, say)
    return adds


def _range_headers(part: Part, file: RemoteFile, url: str) -> dict[str, str]:
    origin, size = part.origin, part.size
    if origin is None or size == 0:
        return {}
    if origin.url != url:
        fits = file.pieces_fit and origin.total is not None
        return {"Range": f"bytes={size}-"} if fits else {}
    stamp = origin.etag or origin.last_modified
    return {"Range": f"bytes={size}-", **({"If-Range": stamp} if stamp else {})}


def _has_no_more(response: requests.Response, part: Part) -> bool:
    """Whether all is here, although more had been announced."""
    whole = response.headers.get("Content-Range") == f"bytes */{part.size}"
    return response.status_code == 416 and whole


def _require_answer(response: requests.Response, part: Part, url: str) -> bool:
    """Whether the answer is a further piece (206) and not the whole file (200)."""
    if url.startswith("https:"):
        for step in (*response.history, response):
            if not step.url.startswith("https:"):
                raise RefusedError(f"leads to {shown(step.url)}, which is not encrypted")
    if response.status_code == 416:
        part.discard()
        raise BrokenError("the server has not as many bytes as are here; starting over")
    if response.status_code not in (200, 206):
        raise RefusedError(f"{response.status_code} {response.reason}")
    return response.status_code == 206


def _origin_of(response: requests.Response, file: RemoteFile, url: str) -> Origin:
    headers = response.headers
    etag = headers.get("ETag")
    if response.status_code == 206:
        total = headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = "" if _is_decoded(response, file) else headers.get("Content-Length", "")
    return Origin(
        url=url,
        total=int(total) if total.isdecimal() else None,
        etag=etag if etag and not etag.startswith("W/") else None,
        last_modified=headers.get("Last-Modified"),
    )


def _require_same_file(response: requests.Response, part: Part, origin: Origin) -> None:
    before, size = part.origin, part.size
    content_range = response.headers.get("Content-Range", "")
    fault = None
    if before is None or not re.match(rf"bytes {size}-\d+/", content_range):
        fault = f"expected bytes from {size} on, the server sent '{content_range}'"
    elif origin.total != before.total:
        fault = f"it has {origin.total} bytes, and had {before.total}"
    elif before.url == origin.url and _has_changed(before, origin):
        fault = "it has changed since its beginning was downloaded"
    if fault is not None:
        part.discard()
        raise BrokenError(f"{fault}; starting over")


def _has_changed(before: Origin, now: Origin) -> bool:
    if before.etag and now.etag:
        return before.etag != now.etag
    stamps = (before.last_modified, now.last_modified)
    return None not in stamps and stamps[0] != stamps[1]


def _is_decoded(response: requests.Response, file: RemoteFile) -> bool:
    """Whether the bytes that are kept are not those that are sent."""
    # Some servers call the compression of a .gz that of the transfer; the .gz is what is meant.
    own = file.name.endswith((".gz", ".tgz"))
    return response.headers.get("Content-Encoding", "") in _ENCODINGS and not own


def _body(response: requests.Response, file: RemoteFile) -> Iterator[bytes]:
    decodes = _is_decoded(response, file)
    try:
        yield from response.raw.stream(CHUNK_BYTES, decode_content=decodes)
    except HTTPError as error:
        raise BrokenError(f"the connection broke ({_short(error)})") from error


def _beginning(body: Iterator[bytes]) -> bytes:
    """The first pieces: enough of them to know a file by."""
    beginning = b""
    for piece in body:
        beginning += piece
        if len(beginning) >= HEAD_BYTES:
            break
    return beginning


def _store(
    body: Iterable[bytes],
    file: RemoteFile,
    part: Part,
    total: int | None,
    say: Callable[[str], None],
) -> None:
    folder, size = part.path.parent, part.size
    if total is not None:
        require_room(folder, total - size, f"the rest of {file.name}")
    progress = Progress(say, file.name, total, size)
    with writing(folder), part.path.open("ab") as out:
        for piece in body:
            size += out.write(piece)
            progress.at(size)
        out.flush()
        os.fsync(out.fileno())
    if total is not None and size != total:
        raise BrokenError(f"the transfer ended at {size} of {total} bytes")


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {TIMEOUTS_S[0]} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUTS_S[1]} s"
    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate was not accepted ({_short(error)})"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy did not answer ({_short(error)})"
    if isinstance(error, requests.ConnectionError):
        return f"no connection ({_short(error)})"
    return _short(error)


def _short(error: Exception) -> str:
    """The innermost reason, without the addresses of Python's objects."""
    inner: object = error
    while isinstance(inner, Exception):
        error = inner
        causes = [getattr(error, "reason", None), *error.args]
        inner = next((one for one in causes if isinstance(one, Exception)), None)
    return re.sub(r"^.*?\): ", "", str(error)) or type(error).__name__
