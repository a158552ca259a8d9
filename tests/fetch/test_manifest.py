from __future__ import annotations

import pytest

from ltbench.errors import UsageError
from ltbench.fetch.manifest import RemoteFile, shown, size_text

HTTPS = ("https://data.example/2019/x.zip",)


@pytest.mark.parametrize(("changes", "word"), [
    ({"name": "../x.zip"}, "a step upwards"),
    ({"name": "/x.zip"}, "an absolute path"),
    ({"name": ""}, "no name"),
    ({"unpacks_to": "a/../../b"}, "a step upwards"),
    ({"urls": ()}, "has no URL"),
    ({"urls": ("http://data.example/x.zip",)}, "expected https, or http together with a digest"),
    ({"urls": ("ftp://data.example/x.zip",), "md5": "0" * 32}, "expected https"),
    ({"urls": ("https:///x.zip",)}, "expected https"),
    ({"md5": "0" * 31}, "32 lower-case hex digits"),
    ({"sha256": "A" * 64}, "64 lower-case hex digits"),
    ({"sha256_seen": "0" * 32}, "64 lower-case hex digits"),
    ({"name": "x.csv", "unpacks_to": "x"}, "cannot be unpacked"),
    ({"unpacks_to": None, "num_files": {".jpg": 1}}, "where they are unpacked to"),
    ({"num_files": {"jpg": 1}}, "lower-case suffix such as .jpg"),
    ({"num_files": {".JPG": 1}}, "lower-case suffix such as .jpg"),
])  # fmt: skip
def test_entries_that_contradict_themselves(changes, word):
    with pytest.raises(UsageError, match=word):
        RemoteFile(**{"name": "x.zip", "urls": HTTPS, "unpacks_to": "x", **changes})


def test_all_faults_of_an_entry_are_named():
    with pytest.raises(UsageError, match=r"'x\.zip' has no URL; has the md5"):
        RemoteFile("x.zip", (), md5="1")


@pytest.mark.parametrize("url", ["http://localhost:1/x", "http://127.0.0.1/x", "http://[::1]/x"])
def test_this_machine_needs_no_encryption(url):
    RemoteFile("x", (url,))


def test_http_with_a_digest():
    RemoteFile("x", ("http://data.example/x",), md5="0" * 32)


def test_addresses():
    urls = ("https://a.example/challenges/2019/y.zip?download=1", "https://b.example/2019/y.zip")
    file = RemoteFile("x.zip", urls)
    assert file.addresses(None) == urls
    tails = ("x.zip", "y.zip", "2019/y.zip")
    assert file.addresses("https://m.example/a/") == tuple(
        f"https://m.example/a/{t}" for t in tails
    )


def test_texts():
    assert [size_text(n) for n in (456, 12_345, 9_770_000_000)] == [
        "456 bytes",
        "12.3 kB",
        "9.8 GB",
    ]
    assert shown("https://me:secret@data.example/a%20b") == "https://data.example/a%20b"
