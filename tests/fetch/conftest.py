"""A server on this machine that misbehaves on request, and small files in the layout of ISIC."""

from __future__ import annotations

import io
import random
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ltbench.dataset import FetchRequest
from ltbench.fetch import transfer
from ltbench.fetch.download import fetch
from ltbench.fetch.manifest import RemoteFile

TOP = "ISIC_2019_Training_Input"


@dataclass
class Page:
    """What one path answers.

    `breaks` holds, for each request to come, after how many bytes the connection ends. `length` is
    what Content-Length says: None for the truth, "" for no such header and pieces of any size.
    `content_range` is what an answer to a Range says in place of the truth.
    """

    body: bytes
    status: int = 200
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    length: str | None = None
    breaks: list[int] = field(default_factory=list)
    heeds_if_range: bool = True
    content_range: str | None = None


@dataclass
class Site:
    """The server's pages by path, and what it was asked."""

    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def serve(self, path: str, body: bytes, **changes: Any) -> str:
        self.pages[path] = Page(body, **changes)
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _path, headers in self.asked]

    @property
    def paths(self) -> list[str]:
        return [path for path, _headers in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.site.asked.append((self.path, dict(self.headers)))
        page = self.site.pages.get(urlsplit(self.path).path, Page(b"no such page", 404))
        body, status, headers = page.body, page.status, dict(page.headers)
        wanted = self.headers.get("Range")
        stamps = (None, headers.get("ETag"), headers.get("Last-Modified"))
        same = self.headers.get("If-Range") in stamps or not page.heeds_if_range
        if wanted and page.ranges and same and status == 200:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206 if start < len(body) else 416
            given = f"{start}-{len(body) - 1}" if status == 206 else "*"
            truth = f"bytes {given}/{len(body)}"
            headers["Content-Range"] = truth if page.content_range is None else page.content_range
            body = body[start:]
        self._answer(page, status, headers, body)

    def _answer(self, page: Page, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if page.length == "":
            self.send_header("Transfer-Encoding", "chunked")
            body = (
                b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in _pieces(body)) + b"0\r\n\r\n"
            )
        else:
            self.send_header("Content-Length", page.length or str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: page.breaks.pop(0)] if page.breaks else body)

    def log_message(self, *_parts: object) -> None:
        pass


def _pieces(body: bytes) -> list[bytes]:
    return [body[:1], *(body[i : i + 700] for i in range(1, len(body), 700))]


@pytest.fixture
def site() -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    handler = type("Handler", (_Handler,), {"site": Site(server.server_address[1])})
    server.RequestHandlerClass = handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield handler.site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waits, small pieces, no proxy of this machine; returns the waits that were asked for."""
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1024)
    monkeypatch.setattr(transfer, "NEWS_BYTES", 5000)
    monkeypatch.setattr(transfer, "TIMEOUTS_S", (2, 2))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return waits


@pytest.fixture(scope="session")
def nowhere() -> str:
    """A base URL where every connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def get(tmp_path: Path, said: list[str]) -> Callable[..., list[Path]]:
    """get(file, ...): fetch into tmp_path/data with the licence accepted, unless said otherwise."""

    def call(*files: RemoteFile, root: Path | None = None, **changes: Any) -> list[Path]:
        request = FetchRequest(**{"accept_licence": True, "say": said.append, **changes})
        return fetch(
            files,
            root or tmp_path / "data",
            request,
            licence="CC BY-NC 4.0, with attribution",
            citations=("Tschandl et al., 2018", "Codella et al., 2018"),
        )

    return call


class Isic:
    """An archive as ISIC packs them, with 12 images."""

    top = TOP
    num_images = 12
    csv = b"\xef\xbb\xbfimage,MEL,NV,UNK\r\nISIC_0000000,1.0,0.0,0.0\r\n" * 60

    def members(self) -> dict[str, bytes]:
        names = [f"ISIC_{i:07d}{'_downsampled' if i == 5 else ''}.jpg" for i in range(12)]
        images = {f"{TOP}/{name}": random.Random(name).randbytes(2000) for name in names}
        texts = {f"{TOP}/ATTRIBUTION.txt": b"BCN, HAM, MSK", f"{TOP}/LICENSE.txt": b"CC"}
        return {f"{TOP}/": b"", **images, **texts}

    def zip(self, **more: bytes) -> bytes:
        return _zipped({**self.members(), **more})

    def file(self, *urls: str, **changes: Any) -> RemoteFile:
        facts = {"about_bytes": 26_000, "unpacks_to": TOP, "num_files": {".jpg": 12}}
        return RemoteFile(f"{TOP}.zip", urls, **{**facts, **changes})


@pytest.fixture
def isic() -> Isic:
    return Isic()


@pytest.fixture
def zipped() -> Callable[[dict[str, bytes]], bytes]:
    return _zipped


def _zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], list[str]]:
    """Every file in the data folder, hidden ones too."""
    root = tmp_path / "data"
    return lambda: sorted(str(one.relative_to(root)) for one in root.rglob("*") if one.is_file())
