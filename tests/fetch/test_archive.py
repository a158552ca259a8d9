from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import stat
import tarfile
import zipfile
from dataclasses import replace

import pytest

from ltbench.errors import RunFailedError, VerificationError
from ltbench.fetch import archive
from ltbench.fetch.archive import archive_fault, folder_fault, unpack
from ltbench.fetch.manifest import RemoteFile

URL = ("https://data.example/x",)


def zip_entry(name, data=b"x", *, mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info, data


@pytest.fixture
def make(tmp_path):
    """make("x.zip" or "x.tar.gz", entries): the archive's file and its manifest entry."""

    def call(name, entries, **changes):
        path = tmp_path / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as opened:
                for info, data in entries:
                    opened.writestr(info, data)
        else:
            with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as opened:
                for info, data in entries:
                    opened.addfile(info, io.BytesIO(data))
        return path, RemoteFile(name, URL, **{"unpacks_to": "top", **changes})

    return call


def tar_entry(name, data=b"x", **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def entry_of(kind, name):
    return zip_entry(name) if kind == "x.zip" else tar_entry(name)


def everything(folder):
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


def refused(path, file, tmp_path, match):
    """By the check before, and again by `unpack` itself, which writes nothing."""
    assert (fault := archive_fault(path, file)) is not None
    root = tmp_path / "data" / "root"
    with pytest.raises(VerificationError, match=match) as caught:
        unpack(path, file, root)
    assert fault in str(caught.value)
    assert everything(tmp_path) == ["data", "data/root", path.name] or not root.exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz", "x.tar"])
@pytest.mark.parametrize(("name", "reason"), [
    ("../x", "a step upwards"),
    ("top/../../x", "a step upwards"),
    ("/tmp/x", "an absolute path"),
    ("C:/x", "a drive letter"),
    ("c:x", "a drive letter"),
    ("top\\..\\x", "a backslash"),
    ("top/a\nb", "an unprintable character"),
    ("other/x", "outside the folder top"),
    ("x.jpg", "outside the folder top"),
    ("top", "outside the folder top"),
    ("topmost/x", "outside the folder top"),
    ("top/good.jpg", "occurs 2 times"),
    ("top//./good.jpg", "occurs 2 times"),
    ("top/good.jpg/x", "is a file and a folder"),
])  # fmt: skip
def test_members_that_are_refused_before_anything_is_written(make, tmp_path, kind, name, reason):
    path, file = make(kind, [entry_of(kind, "top/good.jpg"), entry_of(kind, name)])
    refused(path, file, tmp_path, reason)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(make, tmp_path, mode):
    entries = [zip_entry("top/a"), zip_entry("top/b", mode=mode | 0o777, data=b"/etc/passwd")]
    refused(*make("x.zip", entries), tmp_path, "'top/b': a link or device")


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "FIFOTYPE", "CHRTYPE"])
def test_links_and_devices_in_a_tar_are_refused(make, tmp_path, kind):
    link = tar_entry("top/b", b"", type=getattr(tarfile, kind), linkname="/etc/passwd")
    refused(*make("x.tar.gz", [tar_entry("top/a"), link]), tmp_path, "'top/b': a link or device")


def test_a_zero_byte_does_not_hide_a_name(make, tmp_path):
    path, file = make("x.zip", [zip_entry("top/aX../../b")])
    path.write_bytes(path.read_bytes().replace(b"top/aX..", b"top/a\0.."))
    refused(path, file, tmp_path, "refused")


def test_all_bad_members_are_named_up_to_ten(make, tmp_path):
    path, file = make("x.zip", [zip_entry(f"../{i}") for i in range(13)])
    fault = archive_fault(path, file)
    assert "'../0'" in fault
    assert "'../9'" in fault
    assert "'../10'" not in fault
    assert "and 3 more" in fault


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz", "x.tar"])
def test_modes_are_not_taken_over(make, tmp_path, kind):
    mode = stat.S_IFREG | 0o4777
    entry = (
        zip_entry("top/a.sh", mode=mode) if kind == "x.zip" else tar_entry("top/a.sh", mode=0o4777)
    )
    before = os.umask(0o022)
    try:
        folder = unpack(*make(kind, [entry]), tmp_path / "data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.sh").stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz", "x.tar"])
def test_what_is_unpacked(make, tmp_path, kind):
    names = [
        "./top/deep/a.JPG",
        "top/b.jpg",
        "__MACOSX/top/._b.jpg",
        "top/.hidden.jpg",
        "top/c.txt",
    ]
    entries = [entry_of(kind, name) for name in names]
    folders = ["top/", "top/deep/", "__MACOSX/", "./"]
    if kind == "x.zip":
        entries = [zip_entry(name, data=b"") for name in folders] + entries
    else:
        entries = [tar_entry(name, b"", type=tarfile.DIRTYPE) for name in folders] + entries
    path, file = make(kind, entries, num_files={".jpg": 2, ".txt": 1})
    assert archive_fault(path, file) is None
    folder = unpack(path, file, tmp_path / "data")
    assert folder == tmp_path / "data" / "top"
    assert everything(tmp_path / "data") == [
        "top", "top/.hidden.jpg", "top/b.jpg", "top/c.txt", "top/deep", "top/deep/a.JPG",
    ]  # fmt: skip
    assert folder_fault(folder, file) is None
    (folder / "b.jpg").unlink()
    assert folder_fault(folder, file) == "expected 2 .jpg files, found 1"
    assert "expected a folder" in folder_fault(path, file)


def test_a_folder_below_folders(make, tmp_path):
    entries = [zip_entry("a/", data=b""), zip_entry("a/b/", data=b""), zip_entry("a/b/c.jpg")]
    path, file = make("x.zip", entries, unpacks_to="a/b")
    assert unpack(path, file, tmp_path / "data") == tmp_path / "data/a/b"
    assert everything(tmp_path / "data") == ["a", "a/b", "a/b/c.jpg"]


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz"])
def test_a_bomb_is_refused_unread(make, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED_BYTES", 10_000)
    data = bytes(3_000_000)
    if kind == "x.zip":
        info, _data = zip_entry("top/a")
        info.compress_type = zipfile.ZIP_DEFLATED
        path, file = make(kind, [(info, data)])
    else:
        path, file = make(kind, [tar_entry("top/a", data)])
    with monkeypatch.context() as patched:
        patched.setattr(archive, "_read_through", None)
        refused(path, file, tmp_path, "would grow to more than")
    assert archive_fault(path, replace(file, about_bytes=100_000)) is None


def test_no_room_for_what_is_declared(make, tmp_path, monkeypatch):
    path, file = make("x.zip", [zip_entry("top/a", data=b"x" * 5000)])
    usage = shutil.disk_usage("/")._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(RunFailedError, match=r"to unpack x.zip.*--data-root"):
        unpack(path, file, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_damage_in_a_tar_gz_is_found(make, tmp_path):
    entries = [tar_entry(f"top/{i}", os.urandom(5000)) for i in range(5)]
    path, file = make("x.tar.gz", entries)
    body = path.read_bytes()
    assert archive_fault(path, file) is None
    for damaged in (body[:-5], body[: len(body) // 2], body[:9000] + b"\0" + body[9001:]):
        path.write_bytes(damaged)
        refused(path, file, tmp_path, "cut short or damaged")
    path.write_bytes(gzip.compress(b"image,label\n" * 2000))
    refused(path, file, tmp_path, "cut short or damaged")


def test_a_tar_cut_within_a_member(make, tmp_path):
    path, file = make("x.tar", [tar_entry(f"top/{i}", b"x" * 5000) for i in range(5)])
    path.write_bytes(path.read_bytes()[:8000])
    refused(path, file, tmp_path, "cut short or damaged")


def test_a_password_or_an_unknown_packing_is_named(make, tmp_path):
    path, file = make("x.zip", [zip_entry("top/a", data=b"x" * 50)])
    body = bytearray(path.read_bytes())
    local, central = 0, body.index(b"PK\x01\x02")
    for offset, where in ((6, local), (8, central)):
        body[where + offset] |= 1
    path.write_bytes(body)
    assert "password" in archive_fault(path, file)
    for offset, where in ((6, local), (8, central)):
        body[where + offset] &= ~1
    for offset, where in ((8, local), (10, central)):
        body[where + offset] = 9  # Deflate64, as Windows packs large files
    path.write_bytes(body)
    assert "in a way that Python cannot read" in archive_fault(path, file)
    assert "7-Zip" in archive_fault(path, file)


def test_a_damaged_member_leaves_no_folder(make, tmp_path):
    entries = [zip_entry(f"top/{i}", data=os.urandom(3000)) for i in range(4)]
    path, file = make("x.zip", entries)
    body = bytearray(path.read_bytes())
    body[7000] ^= 1
    path.write_bytes(body)
    with pytest.raises(VerificationError, match="Bad CRC-32"):
        unpack(path, file, tmp_path / "data")
    assert everything(tmp_path / "data") == []


def test_what_was_written_is_compared_with_what_was_declared(make, tmp_path, monkeypatch):
    entries = [zip_entry(f"top/{i}.jpg", data=b"x" * 50) for i in range(4)]
    path, file = make("x.zip", entries, num_files={".jpg": 4})
    with monkeypatch.context() as patched:
        patched.setattr(archive.shutil, "copyfileobj", lambda _from, to, _size: to.write(b"x"))
        with pytest.raises(VerificationError, match="cut short"):
            unpack(path, file, tmp_path / "data")
    write = archive._write_members

    def lose_one(path, file, folder):
        write(path, file, folder)
        (folder / "2.jpg").unlink()

    monkeypatch.setattr(archive, "_write_members", lose_one)
    with pytest.raises(VerificationError, match=r"expected 4 \.jpg files, found 3"):
        unpack(path, file, tmp_path / "data")
    assert everything(tmp_path / "data") == []


def test_a_failing_disk_is_not_called_a_damaged_archive(make, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EIO, "Input/output error")

    path, file = make("x.zip", [zip_entry("top/a")])
    monkeypatch.setattr(archive.zipfile, "ZipFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        archive_fault(path, file)


def test_a_disk_that_fills_up_leaves_no_folder(make, tmp_path, monkeypatch):
    path, file = make("x.zip", [zip_entry(f"top/{i}") for i in range(4)])

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", full)
    with pytest.raises(RunFailedError, match="is full"):
        unpack(path, file, tmp_path / "data")
    assert everything(tmp_path / "data") == []


@pytest.mark.parametrize("entries", [[], [zip_entry("top/", b"")], [zip_entry("__MACOSX/a")]])
def test_an_archive_without_files(make, tmp_path, entries):
    refused(*make("x.zip", entries), tmp_path, "it holds no file")


def test_offsets_before_the_beginning(make, tmp_path):
    path, file = make("x.zip", [zip_entry("top/a")])
    body = bytearray(path.read_bytes())
    offset_at = body.rindex(b"PK\x05\x06") + 16
    body[offset_at : offset_at + 4] = (50_000).to_bytes(4, "little")
    path.write_bytes(body)
    refused(path, file, tmp_path, "damaged")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar"])
def test_random_damage_is_an_error_of_ours(make, tmp_path, name):
    """Never a traceback: whatever the libraries raise for it has words."""
    entries = [entry_of(name, f"top/{i}.jpg") for i in range(6)]
    path, file = make(name, entries, num_files={".jpg": 6})
    whole, draw = path.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(60):
        body = bytearray(whole)
        for _ in range(draw.randint(1, 12)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        path.write_bytes(body[: draw.choice([len(body), draw.randrange(len(body))])])
        fault = archive_fault(path, file)
        outcomes.add(fault is None)
        if fault is not None:
            with pytest.raises(VerificationError):
                unpack(path, file, tmp_path / "data")
            assert everything(tmp_path / "data") == []
    assert False in outcomes
