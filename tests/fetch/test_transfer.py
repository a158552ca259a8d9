from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import shutil

import pytest

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.fetch import transfer
from ltbench.fetch.manifest import RemoteFile
from ltbench.fetch.place import alone
from ltbench.fetch.progress import Progress
from ltbench.fetch.transfer import Part

BODY = b"\x1f\x8b" + random.Random(0).randbytes(20_000)  # begins like a gzip, is none
NAME = "x.bin"


def remote(*urls, **changes):
    return RemoteFile(NAME, urls, **changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / NAME


def test_a_whole_file(site, get, path, left, said):
    site.serve("/a", BODY)
    assert get(remote(site.url("/a"), size=len(BODY))) == [path]
    assert path.read_bytes() == BODY
    assert left() == [NAME]
    headers = site.asked[0][1]
    assert headers["Accept-Encoding"] == "identity"
    assert "Range" not in headers


def test_a_broken_transfer_goes_on_where_it_ended(site, get, path, left, quick, said):
    site.serve("/a", BODY, breaks=[9000, 6000])
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY
    assert left() == [NAME]
    assert site.ranges[0] is None
    starts = [int(one[6:-1]) for one in site.ranges[1:]]
    assert 7000 < starts[0] <= 9000 < starts[1] <= 15_000
    assert site.asked[1][1]["If-Range"] == '"one"'
    assert quick == [1, 1]  # each piece brought enough for its break not to count
    assert any("the connection broke" in line for line in said)


def test_breaks_without_progress_end_after_four_tries(site, get, quick, left):
    site.serve("/a", BODY, breaks=[4000, 0, 0, 0, 0, 0])
    with pytest.raises(DataMissingError, match="the connection broke"):
        get(remote(site.url("/a")))
    assert quick == list(transfer.WAITS_S)
    assert len(site.asked) == 4
    assert left() == [f"{NAME}.part", f"{NAME}.part.json"]


def test_the_next_call_goes_on(site, get, path):
    site.serve("/a", BODY, breaks=[12_000, 0, 0, 0])
    with pytest.raises(DataMissingError):
        get(remote(site.url("/a")))
    kept = path.with_name(f"{NAME}.part").read_bytes()
    assert len(kept) > 10_000
    assert kept == BODY[: len(kept)]
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY
    assert site.ranges[-1] == f"bytes={len(kept)}-"


def test_a_server_that_ignores_range_starts_over(site, get, path):
    site.serve("/a", BODY, ranges=False, breaks=[9000])
    get(remote(site.url("/a")))
    assert site.ranges[1] is not None
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("stamp", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_changed_file_starts_over(site, get, path, stamp, heeds_if_range):
    site.serve("/a", BODY, breaks=[9000, 0, 0, 0], headers={stamp: '"one"'})
    with pytest.raises(DataMissingError):
        get(remote(site.url("/a")))
    other = BODY[::-1]
    site.serve("/a", other, headers={stamp: '"two"'}, heeds_if_range=heeds_if_range)
    get(remote(site.url("/a")))
    assert path.read_bytes() == other


def test_another_size_starts_over_where_the_server_stamps_nothing(site, get, path):
    site.serve("/a", BODY, breaks=[9000, 0, 0, 0], headers={})
    with pytest.raises(DataMissingError):
        get(remote(site.url("/a")))
    other = BODY[::-1] + b"more"
    site.serve("/a", other, headers={})
    get(remote(site.url("/a")))
    assert path.read_bytes() == other


def test_a_weak_etag_is_no_proof(site, get, path):
    site.serve("/a", BODY, breaks=[9000], headers={"ETag": 'W/"one"'})
    get(remote(site.url("/a")))
    assert "If-Range" not in site.asked[1][1]
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("answer", ["bytes 0-20001/20002", "bytes 9-20001/20002", "", "bytes"])
def test_another_range_than_asked_for_is_not_added(site, get, path, answer):
    site.serve("/a", BODY, breaks=[9000], content_range=answer)
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY
    assert site.ranges[-1] is None


def test_a_range_nobody_asked_for_is_refused(site, get):
    site.serve("/a", BODY, status=206, headers={"Content-Range": "bytes 0-9/10"})
    with pytest.raises(DataMissingError, match="expected bytes from 0 on"):
        get(remote(site.url("/a")))


def test_a_part_longer_than_the_file_starts_over(site, get, path):
    site.serve("/a", BODY)
    path.parent.mkdir()
    part = Part(path)
    part.start(transfer.Origin(site.url("/a"), None, '"one"', None))
    part.path.write_bytes(b"x" * 30_000)
    get(remote(site.url("/a"), size=len(BODY)))
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("origin", [None, "{", '{"url": 1}'])
def test_a_part_of_unknown_origin_starts_over(site, get, path, origin):
    site.serve("/a", BODY)
    path.parent.mkdir()
    path.with_name(f"{NAME}.part").write_bytes(b"x" * len(BODY))
    if origin is not None:
        path.with_name(f"{NAME}.part.json").write_text(origin)
    get(remote(site.url("/a"), size=len(BODY)))
    assert path.read_bytes() == BODY
    assert site.ranges == [None]


def test_a_whole_part_needs_no_server(site, get, path, nowhere):
    path.parent.mkdir()
    part = Part(path)
    part.start(transfer.Origin(f"{nowhere}/a", len(BODY), None, None))
    part.path.write_bytes(BODY)
    get(remote(f"{nowhere}/a"))
    assert path.read_bytes() == BODY


def test_pieces_of_another_mirror_only_where_a_mixture_would_show(site, get, path):
    """A digest shows it; without one the other mirror starts from the beginning."""
    for digest, wanted in ((hashlib.md5(BODY).hexdigest(), "bytes="), (None, None)):
        path.unlink(missing_ok=True)
        site.asked.clear()
        site.serve("/a", BODY, breaks=[9000, 0, 0, 0])
        site.serve("/b", BODY, headers={"ETag": '"other"'})
        get(remote(site.url("/a"), site.url("/b"), md5=digest))
        assert path.read_bytes() == BODY
        last = site.asked[-1][1]
        assert (last.get("Range") or "").startswith(wanted or "")
        assert ("Range" in last) is bool(wanted)
        assert "If-Range" not in last


def test_a_mixture_is_fetched_anew_as_a_whole(site, get, path, said):
    site.serve("/a", BODY[::-1], breaks=[9000, 0, 0, 0])
    site.serve("/b", BODY)
    get(remote(site.url("/a"), site.url("/b"), md5=hashlib.md5(BODY).hexdigest()))
    assert path.read_bytes() == BODY
    assert site.ranges[-1] is None
    assert any("put together of pieces" in line and "MD5" in line for line in said)


def test_no_content_length(site, get, path):
    site.serve("/a", BODY, length="")
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY


def test_a_content_length_too_large_is_a_broken_transfer(site, get, left, path):
    site.serve("/a", BODY, length="30000", ranges=False)
    with pytest.raises(DataMissingError, match="the connection broke"):
        get(remote(site.url("/a")))
    assert NAME not in left()
    site.serve("/a", BODY, length="30000")  # asked for more, this one says what there is
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY


def test_a_content_length_other_than_the_size_is_refused_at_once(site, get, left):
    site.serve("/a", BODY, length="15000")
    with pytest.raises(VerificationError, match="expected 20002 bytes, the server has 15000"):
        get(remote(site.url("/a"), size=len(BODY)))
    assert left() == []


def test_a_compressed_answer_is_unpacked_and_a_gz_is_kept(site, get, tmp_path):
    packed = gzip.compress(b"image,label\n" * 300)
    site.serve("/a.csv", packed, headers={"Content-Encoding": "gzip"})
    site.serve("/a.csv.gz", packed, headers={"Content-Encoding": "x-gzip"})
    get(
        RemoteFile("a.csv", (site.url("/a.csv"),), size=3600),
        RemoteFile("a.csv.gz", (site.url("/a.csv.gz"),), size=len(packed)),
    )
    assert (tmp_path / "data" / "a.csv").read_bytes() == b"image,label\n" * 300
    assert (tmp_path / "data" / "a.csv.gz").read_bytes() == packed


def test_nothing_is_added_to_a_compressed_answer(site, get, tmp_path):
    text = BODY.hex().encode()
    packed = gzip.compress(text)
    site.serve("/a.csv", packed, headers={"Content-Encoding": "gzip", "ETag": "1"}, breaks=[9000])
    get(RemoteFile("a.csv", (site.url("/a.csv"),)))
    assert (tmp_path / "data" / "a.csv").read_bytes() == text
    assert site.ranges == [None, None]


def test_an_interrupt_keeps_the_part(site, get, path, monkeypatch):
    site.serve("/a", BODY)

    def stop(self, num_bytes):
        if num_bytes > 12_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "at", stop)
        with pytest.raises(KeyboardInterrupt):
            get(remote(site.url("/a")))
    size = path.with_name(f"{NAME}.part").stat().st_size
    assert size > 12_000
    assert json.loads(path.with_name(f"{NAME}.part.json").read_text())["total"] == len(BODY)
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY
    assert site.ranges[-1] == f"bytes={size}-"


def test_a_page_on_the_way_does_not_cost_the_part(site, get, path):
    site.serve("/a", BODY, breaks=[12_000, 0, 0, 0])
    with pytest.raises(DataMissingError):
        get(remote(site.url("/a")))
    site.serve("/a", b"<!DOCTYPE html><html>Please log in</html>", ranges=False)
    with pytest.raises(VerificationError, match="an HTML page"):
        get(remote(site.url("/a")))
    assert path.with_name(f"{NAME}.part").stat().st_size > 10_000


def test_a_redirect_is_followed_but_not_out_of_encryption(site, get, path, monkeypatch):
    site.serve("/b", BODY)
    site.serve("/a", b"", status=302, headers={"Location": site.url("/b")})
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY
    path.unlink()
    real = transfer.requests.Session.get
    monkeypatch.setattr(
        transfer.requests.Session, "get", lambda self, url, **how: real(self, site.url("/a"), **how)
    )
    with pytest.raises(DataMissingError, match="not encrypted"):
        get(remote("https://data.example/a"))
    assert not path.exists()


@pytest.mark.parametrize(("error", "word"), [
    ("ConnectTimeout", "no connection within 2 s"),
    ("ReadTimeout", "no answer within 2 s"),
    ("SSLError", "certificate was not accepted"),
    ("ProxyError", "the proxy did not answer"),
    ("TooManyRedirects", "over 30"),
])  # fmt: skip
def test_each_failure_has_its_words(get, monkeypatch, error, word):
    def fail(*_args, **_settings):
        raise getattr(transfer.requests.exceptions, error)("over 30")

    monkeypatch.setattr(transfer.requests.Session, "get", fail)
    with pytest.raises(DataMissingError, match=word):
        get(remote("https://data.example/a"))


def test_tls_is_verified_and_timeouts_are_set(get, monkeypatch):
    seen = {}
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)

    def look(self, request, **settings):
        seen.update(settings)
        raise transfer.requests.ConnectionError("stop")

    monkeypatch.setattr(transfer.requests.Session, "send", look)
    with pytest.raises(DataMissingError):
        get(remote("https://data.example/a"))
    assert seen["verify"] is True
    assert seen["timeout"] == (2, 2)


def test_a_full_disk_keeps_the_part(site, get, path, monkeypatch):
    site.serve("/a", BODY)
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(RunFailedError, match="--data-root"):
        get(remote(site.url("/a")))


def _full(_descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_room_is_checked_by_what_the_server_says(site, get, monkeypatch, left):
    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    site.serve("/a", BODY)
    with pytest.raises(RunFailedError, match="Not enough room"):
        get(remote(site.url("/a")))
    assert NAME not in left()


def test_two_processes_do_not_fetch_one_file(site, get, path):
    site.serve("/a", BODY)
    with alone(path), pytest.raises(UsageError, match="Another process is fetching"):
        get(remote(site.url("/a")))
    assert site.asked == []
    get(remote(site.url("/a")))
    assert path.read_bytes() == BODY


def test_progress_is_sparse():
    lines, now = [], [0.0]
    progress = Progress(lines.append, "x.zip", 1000, 100, clock=lambda: now[0])
    for second in range(200):
        now[0] = float(second)
        progress.at(100 + 4 * second)
    assert len(lines) == 7
    assert lines[0].startswith("x.zip: 20 % of 1.0 kB, 4 bytes/s")
    slow = []
    progress = Progress(slow.append, "x.zip", 10**9, 0, clock=lambda: now[0])
    for second in range(200, 400):
        now[0] = float(second)
        progress.at(second)
    assert len(slow) == 3
    quick = []
    progress = Progress(quick.append, "x.zip", 1000, 0, clock=lambda: now[0])
    for size in range(1000):
        progress.at(size)
    assert quick == []
