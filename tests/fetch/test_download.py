from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.fetch import archive, download
from ltbench.fetch.manifest import RemoteFile, login_needed
from ltbench.fetch.transfer import Origin

HTML = b"<!DOCTYPE html>\n<html><body>Request rejected</body></html>"


@pytest.fixture
def both(site, isic):
    """The archive and the table, as a data set names them."""
    archive_url = site.serve("/challenges/2019/images.zip", isic.zip())
    table_url = site.serve("/challenges/2019/labels.csv", isic.csv)
    return isic.file(archive_url), RemoteFile("tables/labels.csv", (table_url,), size=len(isic.csv))


def unpacked(isic, root):
    return {name: (root / name).read_bytes() for name in isic.members() if not name.endswith("/")}


def test_files_are_downloaded_checked_and_unpacked(get, both, isic, tmp_path, left, said):
    root = tmp_path / "data"
    assert get(*both) == [root / isic.top, root / "tables" / "labels.csv"]
    members = {k: v for k, v in isic.members().items() if not k.endswith("/")}
    assert unpacked(isic, root) == members
    assert (root / "tables/labels.csv").read_bytes() == isic.csv
    assert left() == sorted([*members, f"{isic.top}.zip", "tables/labels.csv"])
    assert any("may be deleted" in line for line in said)


def test_nothing_is_downloaded_before_the_licence_is_accepted(get, both, site, said, tmp_path):
    with pytest.raises(UsageError, match="--accept-licence") as caught:
        get(*both, accept_licence=False)
    assert caught.value.exit_code == 2
    assert site.asked == []
    assert not (tmp_path / "data").exists()
    text = "\n".join(said)
    shown = ("CC BY-NC 4.0, with attribution", "Tschandl", "Codella", str(tmp_path / "data"))
    for word in (*shown, "28.8 kB in all", "26.0 kB, unpacked to ISIC_2019", "labels.csv (2.8 kB)"):
        assert word in text, word


def test_the_licence_is_shown_before_the_first_request(get, both, site, said):
    counts = []

    class Said(list):
        def append(self, line):
            counts.append((line, len(site.asked)))

    get(*both, say=Said().append)
    first = next(i for i, (_line, num) in enumerate(counts) if num)
    before = [line for line, _num in counts[:first]]
    assert any(line.startswith("Licence: CC BY-NC") for line in before)
    assert sum(line.startswith("Please cite") for line in before) == 2


def test_what_is_here_needs_no_network_no_licence_and_no_writing(get, both, monkeypatch, said):
    first = get(*both)
    _no_network(monkeypatch)
    _read_only(monkeypatch)
    assert get(*both, accept_licence=False) == first
    assert "already" in said[-1]


def test_the_archive_may_be_deleted_after_unpacking(get, both, site, tmp_path, isic):
    get(*both)
    (tmp_path / "data" / f"{isic.top}.zip").unlink()
    site.asked.clear()
    assert len(get(*both)) == 2
    assert site.asked == []


def test_a_folder_placed_by_hand_is_counted_and_used(get, both, isic, tmp_path, site):
    folder = tmp_path / "data" / isic.top
    folder.mkdir(parents=True)
    for name, data in isic.members().items():
        if not name.endswith("/"):
            (tmp_path / "data" / name).write_bytes(data)
    (folder / "._ISIC_0000000.jpg").write_bytes(b"twin")
    assert get(both[0]) == [folder]
    assert site.asked == []
    (folder / "ISIC_0000003.jpg").unlink()
    with pytest.raises(VerificationError, match=r"expected 12 \.jpg files, found 11") as caught:
        get(both[0])
    assert "move or delete it" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_empty_folder_is_filled(get, both, isic, tmp_path):
    (tmp_path / "data" / isic.top).mkdir(parents=True)
    get(both[0])
    assert len(list((tmp_path / "data" / isic.top).glob("*.jpg"))) == 12


def test_wrong_files_that_are_here_are_all_named_and_kept(get, both, tmp_path, site, isic):
    root = tmp_path / "data"
    (root / "tables").mkdir(parents=True)
    (root / "tables/labels.csv").write_bytes(isic.csv[:100])
    (root / f"{isic.top}.zip").write_bytes(HTML)
    with pytest.raises(VerificationError) as caught:
        get(*both)
    text = str(caught.value)
    assert caught.value.exit_code == 4
    assert f"{root / 'tables/labels.csv'}: expected {len(isic.csv)} bytes, found 100" in text
    assert f"{isic.top}.zip: expected a zip, found an HTML page" in text
    assert "Nothing is replaced unasked" in text
    assert site.asked == []
    assert (root / f"{isic.top}.zip").read_bytes() == HTML


def test_a_zip_placed_by_hand_is_unpacked_without_network(get, both, isic, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{isic.top}.zip").write_bytes(isic.zip())
    _no_network(monkeypatch)
    assert get(both[0], accept_licence=False) == [tmp_path / "data" / isic.top]


@pytest.mark.parametrize("status", [404, 403, 500, 503, 429])
def test_the_next_mirror_after_an_error(get, site, isic, said, status):
    bad = site.serve("/a/x.zip", b"error", status=status)
    good = site.serve("/b/x.zip", isic.zip())
    get(isic.file(bad, good))
    assert site.paths == ["/a/x.zip", "/b/x.zip"]
    assert any(str(status) in line for line in said)


def test_the_next_mirror_after_a_refused_connection(get, site, isic, nowhere):
    get(isic.file(f"{nowhere}/x.zip", site.serve("/x.zip", isic.zip())))


def test_all_mirrors_failed(get, site, isic, nowhere):
    with pytest.raises(DataMissingError) as caught:
        get(isic.file(site.url("/a/x.zip"), f"{nowhere}/x.zip"))
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert f"{site.url('/a/x.zip')}: 404 Not Found" in text
    assert f"{nowhere}/x.zip: no connection (" in text
    assert "Connection refused" in text
    assert " object at 0x" not in text
    assert "--from-dir FOLDER" in text
    assert "--mirror URL" in text
    assert f"{isic.top}.zip (26.0 kB) from {site.url('/a/x.zip')}" in text


def test_offline_names_every_file_that_is_still_missing(get, isic, nowhere, tmp_path):
    files = [RemoteFile(f"{i}.csv", (f"{nowhere}/{i}.csv",)) for i in range(13)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "5.csv").write_bytes(isic.csv)
    with pytest.raises(DataMissingError) as caught:
        get(*files)
    text = str(caught.value)
    assert "0.csv could not be downloaded" in text
    assert "9.csv from" in text
    assert "5.csv" not in text
    assert "and 2 more" in text


def test_content_that_is_wrong_is_not_kept_and_the_next_mirror_is_tried(get, site, isic, left):
    bad = site.serve("/a/x.zip", HTML)
    with pytest.raises(VerificationError) as caught:
        get(isic.file(bad))
    text = str(caught.value)
    assert f"{bad}: expected a zip, found an HTML page: it begins with b'<!DOCTYPE html>" in text
    assert left() == []
    get(isic.file(bad, site.serve("/b/x.zip", isic.zip())))


@pytest.mark.parametrize("kind", ["cut short", "CRC", "missing", "extra", "MD5", "SHA-256"])
def test_what_came_is_checked(get, site, isic, left, kind):
    body, changes, word = isic.zip(), {}, kind
    if kind == "cut short":
        body = body[:-200]
    elif kind == "CRC":
        body = body[:3000] + bytes([body[3000] ^ 1]) + body[3001:]
    elif kind == "missing":
        changes, word = {"num_files": {".jpg": 13}}, "expected 13 .jpg files, found 12"
    elif kind == "extra":
        changes, word = {"num_files": {".jpg": 12, ".txt": 1}}, "expected 1 .txt files, found 2"
    elif kind == "MD5":
        changes, word = {"md5": "0" * 32}, f"MD5 {'0' * 32}, found {hashlib.md5(body).hexdigest()}"
    elif kind == "SHA-256":
        found = hashlib.sha256(body).hexdigest()
        changes, word = {"sha256": "0" * 64}, f"SHA-256 {'0' * 64}, found {found}"
    url = site.serve("/x.zip", body)
    with pytest.raises(VerificationError, match=word) as caught:
        get(isic.file(url, **changes))
    assert caught.value.exit_code == 4
    assert left() == []
    assert len(site.asked) == 1


def test_right_digests_pass_and_a_seen_one_is_only_said(get, site, isic, said, tmp_path):
    body = isic.csv
    right = {"sha256": hashlib.sha256(body).hexdigest(), "md5": hashlib.md5(body).hexdigest()}
    url = site.serve("/x.csv", body)
    get(RemoteFile("x.csv", (url,), sha256_seen=right["sha256"], **right))
    assert not any("differs" in line for line in said)
    get(RemoteFile("y.csv", (url,), sha256_seen="0" * 64))
    assert any("y.csv differs from the public copy" in line for line in said)
    assert (tmp_path / "data/y.csv").read_bytes() == body


@pytest.mark.parametrize(("name", "body", "found"), [
    ("x.csv", HTML, "an HTML page"),
    ("x.csv", b"\xef\xbb\xbf \n<?xml version='1.0'?><Error><Code>AccessDenied", "an XML message"),
    ("x.csv", b"PK\x03\x04" + b"x" * 30, "a zip"),
    ("x.csv", b"\x1f\x8b" + b"x" * 30, "gzip"),
    ("x.csv", b'{"error": "quota"}', "JSON"),
    ("x.csv", b"image,\0\0", "other binary data"),
    ("x.csv", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    ("x.npz", b"image,MEL\r\n", "text"),
    ("x.npz", HTML, "an HTML page"),
    ("x.tar.gz", b"PK\x03\x04" + b"x" * 30, "a zip"),
    ("x.json", HTML, "an HTML page"),
    ("x.mat", HTML, "an HTML page"),
    ("x.csv", b"", "empty"),
])  # fmt: skip
def test_another_kind_of_content_is_refused(get, site, left, name, body, found):
    with pytest.raises(VerificationError, match=found):
        get(RemoteFile(name, (site.serve("/x", body),)))
    assert left() == []


def test_npz_and_gz_are_read_through(get, site, isic, zipped, left):
    good = zipped({"train_images.npy": b"x" * 500})
    bad = good.replace(b"xxxx", b"yxxx", 1)
    with pytest.raises(VerificationError, match="damaged"):
        get(RemoteFile("x.npz", (site.serve("/x", bad),)))
    get(RemoteFile("x.npz", (site.serve("/x", good),)))
    packed = gzip.compress(isic.csv)
    with pytest.raises(VerificationError, match="cut short or damaged"):
        get(RemoteFile("x.csv.gz", (site.serve("/y", packed[:-9]),)))
    get(RemoteFile("x.csv.gz", (site.serve("/y", packed),)))
    assert left() == ["x.csv.gz", "x.npz"]


def test_an_interrupted_extraction_is_repeated_cleanly(get, both, isic, site, tmp_path, left):
    """As after a power cut: a half-filled folder under its temporary name."""
    root = tmp_path / "data"
    get(both[0])
    shutil.rmtree(root / isic.top)
    half = root / f".{isic.top}.unpacking"
    half.mkdir()
    (half / "ISIC_0000000.jpg").write_bytes(b"half")
    site.asked.clear()
    get(both[0])
    assert site.asked == []
    assert len(list((root / isic.top).glob("*.jpg"))) == 12
    assert not half.exists()


def test_an_interrupt_while_unpacking_leaves_no_folder(get, both, isic, tmp_path, monkeypatch):
    root = tmp_path / "data"
    copy = shutil.copyfileobj

    def stop(stream, out, size):
        if out.name.endswith("5_downsampled.jpg"):
            raise KeyboardInterrupt
        copy(stream, out, size)

    with monkeypatch.context() as patched:
        patched.setattr(archive.shutil, "copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            get(both[0])
    assert not (root / isic.top).exists()
    get(both[0], accept_licence=False)
    assert len(list((root / isic.top).glob("*.jpg"))) == 12


def test_room_is_checked_before_anything_else(get, both, site, monkeypatch, tmp_path):
    usage = shutil.disk_usage("/")._replace(free=40_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    big = RemoteFile("x.zip", both[0].urls, about_bytes=9_770_000_000, unpacks_to="x")
    table = RemoteFile("x.csv", both[1].urls, about_bytes=1_000_000_000)
    with pytest.raises(RunFailedError) as caught:
        get(big, table)
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert (
        "21.57 GB are needed (10.8 GB of downloads and 9.8 GB unpacked), 0.00 GB are free" in text
    )
    assert str(tmp_path / "data") in text
    assert "--data-root" in text
    assert site.asked == []


def test_what_is_downloaded_already_needs_no_room_again(get, both, isic, tmp_path, monkeypatch):
    need = []
    monkeypatch.setattr(download, "require_room", lambda _root, num, _why: need.append(num))
    body = isic.zip()
    path = tmp_path / "data" / f"{isic.top}.zip"
    path.parent.mkdir()
    part = download.Part(path)
    part.start(Origin(both[0].urls[0], len(body), '"one"', None))
    part.path.write_bytes(body[:20_000])
    get(isic.file(*both[0].urls, unpacked_bytes=24_000))
    assert need == [round(1.05 * (6000 + 24_000))]


def test_a_folder_that_cannot_be_written_to(get, both, site, monkeypatch, tmp_path):
    _read_only(monkeypatch)
    with pytest.raises(UsageError, match="--data-root") as caught:
        get(*both)
    assert str(tmp_path / "data") in str(caught.value)
    assert "Read-only file system" in str(caught.value)
    assert site.asked == []


def test_a_file_in_place_of_the_folder(get, both, tmp_path):
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(UsageError, match="a file of that name is in the way"):
        get(*both)


def test_a_proxy_of_the_environment_is_used(get, site, isic, monkeypatch, tmp_path):
    body = isic.csv
    site.serve("/x.csv", body)
    monkeypatch.setenv("http_proxy", site.url(""))
    url = "http://data.example.invalid/x.csv"
    get(RemoteFile("x.csv", (url,), md5=hashlib.md5(body).hexdigest()))
    assert site.paths == [url]
    assert (tmp_path / "data/x.csv").read_bytes() == body


def test_a_mirror_replaces_the_known_base(get, site, isic, said):
    file = isic.file("https://isic.example/challenges/2019/images.zip?download=1")
    site.serve("/m/2019/images.zip", isic.zip())
    get(file, mirror=site.url("/m/"))
    assert site.paths == [f"/m/{isic.top}.zip", "/m/images.zip", "/m/2019/images.zip"]
    assert any("not encrypted" in line for line in said)


@pytest.mark.parametrize("mirror", ["/home/me/data", "ftp://host/x", "https://", "host/x"])
def test_a_mirror_that_is_no_url(get, both, site, mirror):
    with pytest.raises(UsageError, match="--from-dir"):
        get(*both, mirror=mirror)
    assert site.asked == []


def test_a_password_in_a_mirror_is_not_shown(get, both, said, nowhere):
    with pytest.raises(DataMissingError) as caught:
        get(*both, mirror=nowhere.replace("://", "://me:secret@"))
    assert "secret" not in str(caught.value) + "\n".join(said)


def test_optional_files_are_left_out(get, both, site, said, tmp_path):
    wanted = RemoteFile("more.csv", (site.url("/none.csv"),), optional=True)
    assert len(get(wanted, *both)) == 2
    assert any("more.csv is optional and is left out" in line for line in said)
    site.asked.clear()
    assert len(get(wanted, *both, accept_licence=False)) == 2
    assert site.asked == []
    site.serve("/none.csv", b"a,b\n")
    assert get(wanted, *both)[0] == tmp_path / "data/more.csv"


def test_one_failure_keeps_the_others(get, both, tmp_path, site, isic):
    with pytest.raises(DataMissingError, match=r"none\.csv could not"):
        get(both[0], RemoteFile("none.csv", (site.url("/none.csv"),)), both[1])
    assert (tmp_path / "data" / isic.top).is_dir()


@pytest.fixture
def by_hand(tmp_path, isic):
    folder = tmp_path / "by hand"
    folder.mkdir()
    (folder / f"{isic.top}.zip").write_bytes(isic.zip())
    (folder / "labels.csv").write_bytes(isic.csv)
    return folder


def _snapshot(folder):
    return {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_mode) for p in folder.iterdir()
    }


def test_files_by_hand(get, both, by_hand, isic, tmp_path, monkeypatch, left, said):
    _no_network(monkeypatch)
    (by_hand / "labels.csv").rename(by_hand / "real")
    (by_hand / "labels.csv").symlink_to("real")
    before = _snapshot(by_hand)
    root = tmp_path / "data"
    get(*both, from_dir=by_hand, accept_licence=False)
    assert not (root / "tables/labels.csv").is_symlink()
    assert not any("may be deleted" in line for line in said)
    assert unpacked(isic, root) == {k: v for k, v in isic.members().items() if k[-1] != "/"}
    assert (root / "tables/labels.csv").samefile(by_hand / "labels.csv")
    assert not any(name.endswith((".zip", ".copy", ".lock")) for name in left())
    assert _snapshot(by_hand) == before
    get(*both)


def test_files_by_hand_are_copied_where_links_do_not_work(
    get, both, by_hand, tmp_path, monkeypatch
):
    def fail(*_args, **_settings):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    get(*both, from_dir=by_hand)
    taken = tmp_path / "data/tables/labels.csv"
    assert taken.read_bytes() == (by_hand / "labels.csv").read_bytes()
    assert not taken.samefile(by_hand / "labels.csv")


def test_files_by_hand_that_are_missing_are_all_named(
    get, both, by_hand, site, isic, tmp_path, left
):
    other = RemoteFile("more.csv", (site.url("/more.csv"),), optional=True)
    (by_hand / "labels.csv").unlink()
    (by_hand / f"{isic.top}.zip").unlink()
    (by_hand / isic.top).mkdir()
    with pytest.raises(DataMissingError) as caught:
        get(*both, other, from_dir=by_hand)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert f"tables/labels.csv (2.8 kB) from {both[1].urls[0]}" in text
    assert f"{isic.top}.zip (26.0 kB) from {both[0].urls[0]}" in text
    assert f"{isic.top} is unpacked already: move it to {tmp_path / 'data'}" in text
    assert "more.csv" not in text
    assert str(by_hand) in text
    assert site.asked == []
    assert not (tmp_path / "data").exists()


def test_files_by_hand_that_are_wrong_are_all_named_and_stay(get, both, by_hand, isic, tmp_path):
    (by_hand / "labels.csv").write_bytes(HTML)
    (by_hand / f"{isic.top}.zip").write_bytes(isic.zip()[:-100])
    before = _snapshot(by_hand)
    with pytest.raises(VerificationError) as caught:
        get(*both, from_dir=by_hand)
    text = str(caught.value)
    assert "labels.csv: expected text, found an HTML page" in text
    assert f"{isic.top}.zip: it is cut short" in text
    assert _snapshot(by_hand) == before
    assert not (tmp_path / "data").exists()


def test_one_name_in_two_folders_is_not_mixed_up(get, site, tmp_path, isic):
    urls = (site.serve("/x.csv", isic.csv),)
    files = RemoteFile("2018/x.csv", urls), RemoteFile("2019/x.csv", urls)
    folder = tmp_path / "by hand"
    (folder / "2019").mkdir(parents=True)
    (folder / "x.csv").write_bytes(b"which?\n")
    (folder / "2019/x.csv").write_bytes(b"2019\n")
    with pytest.raises(
        DataMissingError, match=r"Expected more files in .*\n  2018/x\.csv from"
    ) as e:
        get(*files, from_dir=folder)
    assert "2019/x.csv" not in str(e.value)


def test_from_dir_that_is_no_folder(get, both, tmp_path):
    with pytest.raises(UsageError, match="expected a folder"):
        get(*both, from_dir=tmp_path / "nowhere")


def test_a_file_that_cannot_be_read_is_named(get, both, by_hand, monkeypatch):
    real = Path.open

    def fail(self, *args, **settings):
        if self.parent == by_hand:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *args, **settings)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(VerificationError, match=r"could not be read \(Permission denied\)"):
        get(*both, from_dir=by_hand)


def test_two_entries_of_one_name(get, both):
    with pytest.raises(UsageError, match=r"tables/labels\.csv"):
        get(both[1], *both)


def test_login_needed():
    names = [f"part_{i}.zip" for i in range(12)]
    error = login_needed("aptos", "https://kaggle.example/aptos", Path("/data/aptos"), names)
    assert isinstance(error, DataMissingError)
    text = str(error)
    parts = ("aptos is behind a login", "https://kaggle.example/aptos", "/data/aptos")
    for word in (*parts, "part_9.zip", "and 2 more", "bench.py data prepare aptos"):
        assert word in text, word
    own = login_needed("x", "page", Path("f"), ["a"], command="bench.py data show x")
    assert str(own).endswith("Run: bench.py data show x")


def _no_network(monkeypatch):
    def fail(*_args, **_settings):
        raise AssertionError("the network was used")

    monkeypatch.setattr("requests.Session.send", fail)


def _read_only(monkeypatch):
    def fail(*_args, **_settings):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr(os, "open", fail)
