from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ltbench import files
from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError


def _failing(number: int) -> Callable[..., None]:
    def fail(*_args: object, **_settings: object) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    return fail


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a.bin", b"\x00\xff")
    files.write_text(tmp_path / "a.txt", "naïve λ\n")
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [None, True, "λ", 0.1]})
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "naïve λ\n"
    assert files.read_json(tmp_path / "a.json") == {"b": 1, "a": [None, True, "λ", 0.1]}
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.json", "a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, RunFailedError, "full"),
        (errno.EDQUOT, RunFailedError, "full"),
        (errno.EROFS, UsageError, "cannot be written"),
        (errno.EACCES, UsageError, "cannot be written"),
        (errno.EIO, RunFailedError, "failed"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: int,
    kind: type[Exception],
    word: str,
) -> None:
    path = tmp_path / "record.json"
    files.write_text(path, "old")
    monkeypatch.setattr(os, step, _failing(number))
    with pytest.raises(kind, match=word) as caught:
        files.write_text(path, "new")
    assert str(tmp_path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", _failing(errno.EINVAL))
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_missing_folder_and_a_file_in_the_way_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="not_there"):
        files.write_text(tmp_path / "not_there" / "a", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="in the way"):
        files.write_text(tmp_path / "file" / "a", "text")


def test_canonical_json_is_one_text_for_one_object() -> None:
    assert (
        files.canonical_json({"b": (1, 2), "a": {"λ": 1e-3}}) == '{"a":{"\\u03bb":0.001},"b":[1,2]}'
    )
    assert files.canonical_json({"a": 1, "b": 2}) == files.canonical_json({"b": 2, "a": 1})
    assert files.canonical_json([np.int64(3), np.float32(0.5)]) == "[3,0.5]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_json_refuses_what_is_not_finite_and_says_where(tmp_path: Path, value: float) -> None:
    obj = {"metrics": {"per_class": [0.5, value]}}
    with pytest.raises(ValueError, match=r"metrics\.per_class\.1"):
        files.canonical_json(obj)
    with pytest.raises(ValueError, match=r"metrics\.per_class\.1"):
        files.write_json(tmp_path / "a.json", obj)
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_other_objects() -> None:
    with pytest.raises(TypeError, match="set"):
        files.canonical_json({"a": {1, 2}})


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b"\x00" * 40, b"\xff\xfe", b'{"a": NaN}'])
def test_a_damaged_file_is_told_from_a_missing_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataMissingError, match=r"a\.json"):
        files.read_json(path)
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=r"a\.json is damaged"):
        files.read_json(path)


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", _failing(errno.EIO))
    with pytest.raises(RunFailedError, match="could not be read"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(RunFailedError, match="could not be read"):
        files.whole_lines(tmp_path / "a.jsonl")


def test_sha256_is_the_known_one() -> None:
    assert files.sha256_hex(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_lines_are_added_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    assert files.whole_lines(path) == []
    files.append_line(path, "one")
    with path.open("a") as file:
        file.write("tor")
    assert files.whole_lines(path) == ["one"]
    files.append_line(path, "two λ")
    assert files.whole_lines(path) == ["one", "two λ"]

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _failing(errno.ENOSPC))
        with pytest.raises(RunFailedError, match="full"):
            files.append_line(path, "three")
    assert path.read_text(encoding="utf-8") == "one\ntwo λ\n"
    files.append_line(path, "three")
    assert files.whole_lines(path) == ["one", "two λ", "three"]


def test_a_line_that_fits_only_in_part(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    files.append_line(tmp_path / "lines", "one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(RunFailedError, match="full"):
            files.append_line(tmp_path / "lines", "a line that is too long")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "lines").read_bytes() == b"one\n"


def test_a_stamp_goes_with_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert files.read_stamped(path) is None
    path.write_bytes(b"x")
    os.utime(path, ns=(5, 7))
    assert files.read_stamped(path) == (b"x", 7)
