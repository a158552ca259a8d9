from __future__ import annotations

import hashlib
import os
import resource
import shutil

import numpy as np
import pytest
from PIL import Image

from ltbench.errors import DataMissingError, RunFailedError, UsageError, VerificationError
from ltbench.store import build, chunk, plan
from ltbench.store.layout import Store, StoreSettings
from ltbench.store.writer import write_store

SETTINGS = StoreSettings(short_side=32, squares=(16,))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(plan, "_CHUNK_PICTURES", 3)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "stores" / "mine"


def contents(folder):
    """Name and bytes of each file, but for the versions of libraries."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def left_beside(folder):
    return sorted(file.name for file in folder.parent.iterdir() if file != folder)


class Writes:
    """Numbers of the chunks that were written; Ctrl-C is pressed after `limit` of them."""

    def __init__(self):
        self.chunks, self.limit = [], 99

    def __call__(self, job):
        if len(self.chunks) == self.limit:
            raise KeyboardInterrupt
        self.chunks.append(job.number)
        return chunk.write_chunk(job)

    def interrupted(self, limit, *arguments):
        self.chunks, self.limit = [], limit
        with pytest.raises(KeyboardInterrupt):
            write_store(*arguments)
        self.chunks, self.limit = [], 99


@pytest.fixture
def writes(monkeypatch):
    writes = Writes()
    monkeypatch.setattr(build, "write_chunk", writes)
    return writes


def test_progress_ends_with_all(make_files, out):
    told = []
    write_store(out, *make_files(8), SETTINGS, on_progress=lambda *numbers: told.append(numbers))
    assert told[0] == (0, 8)
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == 5  # the beginning, three chunks, the end


def test_two_processes_write_the_same_bytes(make_files, tmp_path):
    ids, files = make_files(10)
    one = write_store(tmp_path / "one", ids, files, SETTINGS)
    two = write_store(tmp_path / "two", ids, files, SETTINGS, workers=2)
    assert contents(two.folder) == contents(one.folder)
    assert sorted(contents(one.folder)) == [
        "index.npz",
        "pixels.bin",
        "square-16.bin",
        "store.json",
    ]


def test_a_finished_store_is_kept(make_files, out, writes):
    ids, files = make_files(5)
    write_store(out, ids, files, SETTINGS)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    store = write_store(out, ids, files, SETTINGS)
    assert writes.chunks == [0, 1]  # of the first time
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert store.ids.tolist() == ids.tolist()
    assert left_beside(out) == []


@pytest.mark.parametrize("change", ["file", "ids", "settings", "order"])
def test_another_plan_replaces_the_store(make_files, draw, encode, out, change):
    ids, files = make_files(5)
    before = write_store(out, ids, files, SETTINGS)
    settings = SETTINGS
    if change == "file":
        files[2].write_bytes(encode(draw(50, 50, seed=99), "JPEG"))
    elif change == "ids":
        ids = np.array(["other", *ids[1:]])
    elif change == "settings":
        settings = StoreSettings(short_side=24, squares=(16, 8))
    else:
        ids, files = ids[::-1], files[::-1]
    after = write_store(out, ids, files, settings)
    assert after.plan != before.plan
    assert after.ids.tolist() == ids.tolist()
    assert contents(out) == contents(write_store(out.parent / "new", ids, files, settings).folder)
    after.verify()
    assert left_beside(out) == ["new"]


def test_the_old_store_stays_until_the_new_one_is_complete(make_files, out, writes):
    ids, files = make_files(7)
    before = contents(write_store(out, ids, files, SETTINGS).folder)
    writes.interrupted(1, out, ids[:6], files[:6], SETTINGS)
    assert contents(out) == before
    assert len(write_store(out, ids[:6], files[:6], SETTINGS).ids) == 6


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_replacement_that_was_cut_short_is_mended(make_files, out, writes, moment):
    ids, files = make_files(6)
    write_store(out, ids, files, SETTINGS)
    folders = {"old": out, "partial": out.with_name("mine.partial")}
    write_store(folders["partial"], ids[:4], files[:4], SETTINGS)
    if moment != "before":
        out.rename(out.with_name("mine.replaced"))
    if moment == "after":
        folders["partial"].rename(out)
    writes.chunks = []
    assert write_store(out, ids[:4], files[:4], SETTINGS).ids.tolist() == ids[:4].tolist()
    assert writes.chunks == []
    assert left_beside(out) == []


def test_a_store_that_was_put_aside_comes_back(make_files, out, writes):
    ids, files = make_files(6)
    write_store(out, ids, files, SETTINGS)
    out.rename(out.with_name("mine.replaced"))
    writes.chunks, writes.limit = [], 0
    assert len(write_store(out, ids, files, SETTINGS).ids) == 6


def test_an_interrupted_preparation_goes_on(make_files, out, tmp_path, writes):
    ids, files = make_files(11)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    writes.interrupted(1, out, ids, files, SETTINGS)
    with pytest.raises(DataMissingError, match="no finished store"):
        Store.open(out)
    journal = out.with_name("mine.partial") / "journal"
    for _ in range(2):
        with journal.open("ab") as file:
            file.write(b'12345678 {"chunk":3,"rec')
        writes.interrupted(1, out, ids, files, SETTINGS)
    write_store(out, ids, files, SETTINGS)
    assert writes.chunks == [3]
    assert contents(out) == whole
    assert left_beside(out) == []


@pytest.mark.parametrize("damaged", ["pixels.bin", "square-16.bin", "journal", "plan.npz"])
def test_what_is_journaled_is_not_trusted_blindly(make_files, out, tmp_path, writes, damaged):
    ids, files = make_files(9)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    writes.interrupted(2, out, ids, files, SETTINGS)
    file = out.with_name("mine.partial") / damaged
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 4
    file.write_bytes(data)
    write_store(out, ids, files, SETTINGS)
    assert contents(out) == whole
    assert writes.chunks == ([0, 1, 2] if damaged == "plan.npz" else [1, 2])


def test_a_journal_of_another_plan_is_discarded(make_files, out, writes):
    ids, files = make_files(9)
    writes.interrupted(2, out, ids, files, SETTINGS)
    os.utime(files[8], ns=(0, 0))
    write_store(out, ids, files, SETTINGS).verify()
    assert writes.chunks == [0, 1, 2]


@pytest.fixture
def broken(make_files, draw, encode):
    """ids, files and what is to be said of those that cannot be read."""
    ids, files = make_files(20)
    files[1].write_bytes(files[1].read_bytes()[:-80])
    files[4].write_bytes(b"")
    files[7].write_bytes(b"<html><body>Please log in</body></html>")
    files[8].unlink()
    files[11].write_bytes(b"P6 30000 20000 255\n")
    files[12].write_bytes(b"no picture at all")
    files[13].unlink()
    files[13].mkdir()
    return ids, files, {
        "p1": "truncated JPEG",
        "p4": "it is empty",
        "p7": "an HTML page",
        "p8": "no such file",
        "p11": "more than 400 megapixels",
        "p12": "unknown format",
        "p13": "it is a folder",
    }  # fmt: skip


def test_all_that_is_broken_is_named_at_once(broken, out):
    ids, files, reasons = broken
    with pytest.raises(VerificationError) as caught:
        write_store(out, ids, files, SETTINGS)
    text = str(caught.value)
    assert text.startswith("7 pictures cannot be read:")
    assert "use --skip-broken, which leaves them out and records it" in text
    for name, reason in reasons.items():
        line = next(line for line in text.splitlines() if f"'{name}'" in line)
        assert reason in line
        assert str(files[int(name[1:])]) in line
    assert not out.exists()


def test_ten_are_shown_and_the_rest_is_counted(make_files, out):
    ids, files = make_files(15)
    for file in files[:13]:
        file.write_bytes(b"")
    with pytest.raises(VerificationError) as caught:
        write_store(out, ids, files, SETTINGS)
    assert str(caught.value).count("it is empty") == 10
    assert "and 3 more" in str(caught.value)


def test_broken_pictures_are_left_out_and_recorded(broken, out, writes):
    ids, files, reasons = broken
    with pytest.raises(VerificationError):
        write_store(out, ids, files, SETTINGS)
    writes.chunks = []
    store = write_store(out, ids, files, SETTINGS, skip_broken=True)
    assert writes.chunks == []  # the first try had done all the work
    assert [one["id"] for one in store.left_out] == list(reasons)
    for one in store.left_out:
        assert reasons[one["id"]] in one["reason"]
        assert one["file"] == str(files[int(one["id"][1:])])
    assert store.ids.tolist() == [name for name in ids.tolist() if name not in reasons]
    store.verify()
    with pytest.raises(DataMissingError, match="lacks 1 picture: p4"):
        store.images(np.array(["p3", "p4"]))
    # The command says the same whatever was prepared before.
    with pytest.raises(VerificationError, match="7 pictures cannot be read"):
        write_store(out, ids, files, SETTINGS)
    assert Store.open(out).left_out == store.left_out


def test_a_mended_picture_comes_in(broken, draw, encode, out):
    ids, files, reasons = broken
    write_store(out, ids, files, SETTINGS, skip_broken=True)
    files[8].write_bytes(encode(draw(40, 40), "JPEG"))
    store = write_store(out, ids, files, SETTINGS, skip_broken=True)
    assert "p8" in store.ids
    assert [one["id"] for one in store.left_out] == [name for name in reasons if name != "p8"]


def test_a_store_of_nothing_is_refused(make_files, out):
    ids, files = make_files(3)
    for file in files:
        file.unlink()
    with pytest.raises(VerificationError, match="3 pictures cannot be read"):
        write_store(out, ids, files, SETTINGS, skip_broken=True)
    with pytest.raises(VerificationError, match="one or more"):
        write_store(out, np.array([], dtype=str), [], SETTINGS)


def test_ids_are_unique_and_have_a_file_each(make_files, out):
    ids, files = make_files(4)
    with pytest.raises(VerificationError, match=r"2 ids came more than once: a, b\."):
        write_store(out, np.array(["a", "b", "b", "a"]), files, SETTINGS)
    with pytest.raises(VerificationError, match="3 files"):
        write_store(out, ids, files[:3], SETTINGS)


def test_conversions_are_counted(make_files, draw, encode, out):
    ids, files = make_files(6)
    picture = Image.fromarray(draw(40, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    files[1].write_bytes(encode(picture.convert("L"), "JPEG"))
    files[2].write_bytes(encode(picture.convert("L"), "PNG", exif=exif))
    files[3].write_bytes(encode(picture, "JPEG", exif=exif))
    files[4].write_bytes(encode(picture.convert("RGBA"), "PNG"))
    store = write_store(out, ids, files, SETTINGS)
    assert store.conversions == {"grey": 2, "exif-rotated": 2, "rgba": 1}
    assert store.images(ids[3:4]).sizes.tolist() == [[40, 32]]


def test_a_header_that_lies_is_noticed(make_files, draw, encode, out, monkeypatch):
    ids, files = make_files(4)
    monkeypatch.setattr(plan, "read_size", lambda file: (48, 64))
    with pytest.raises(VerificationError) as caught:
        write_store(out, ids, files, SETTINGS)
    assert "its header says (48, 64) (height, width), its pixels (40, 60)" in str(caught.value)


def test_files_that_change_meanwhile_end_the_run(make_files, out, writes, monkeypatch):
    ids, files = make_files(7)
    writes.interrupted(1, out, ids, files, SETTINGS)
    stats = plan.file_stats(files)
    os.utime(files[5], ns=(1, 1))
    monkeypatch.setattr("ltbench.store.writer.file_stats", lambda files: stats)
    with pytest.raises(RunFailedError, match=r"p5\.jpg was changed while"):
        write_store(out, ids, files, SETTINGS, skip_broken=True)


def test_a_disk_that_fails_is_no_broken_picture(make_files, out, monkeypatch):
    ids, files = make_files(3)

    def fail(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(plan, "read_size", fail)
    with pytest.raises(RunFailedError, match=r"p0\.jpg could not be read: Input/output error"):
        write_store(out, ids, files, SETTINGS, skip_broken=True)


def test_room_is_asked_for_before_anything_is_written(make_files, out, monkeypatch):
    ids, files = make_files(6)
    usage = shutil.disk_usage(out.parents[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(RunFailedError, match=r"0\.00 GB are needed, 0\.00 GB are free"):
        write_store(out, ids, files, SETTINGS)
    assert (out.with_name("mine.partial") / "pixels.bin").stat().st_size == 0
    # A length without blocks is no room that was taken.
    os.truncate(out.with_name("mine.partial") / "pixels.bin", 10**9)
    with pytest.raises(RunFailedError, match="Not enough room"):
        write_store(out, ids, files, SETTINGS)
    monkeypatch.undo()
    write_store(out, ids, files, SETTINGS).verify()


def test_a_full_disk_keeps_what_was_journaled(make_files, out, tmp_path, writes):
    ids, files = make_files(15)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole["pixels.bin"]) * 2 // 3, limits[1]))
    try:
        with pytest.raises(RunFailedError, match="is full") as caught:
            write_store(out, ids, files, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "run the same command again" in str(caught.value)
    writes.chunks = []
    write_store(out, ids, files, SETTINGS)
    assert 0 < len(writes.chunks) < 4
    assert contents(out) == whole


def test_short_writes_are_completed(make_files, out, tmp_path, monkeypatch):
    ids, files = make_files(3)
    whole = contents(write_store(tmp_path / "whole", ids, files, SETTINGS).folder)
    at_once = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: at_once(file, data[:700], at))
    assert contents(write_store(out, ids, files, SETTINGS).folder) == whole


def test_only_stores_are_replaced(make_files, out):
    ids, files = make_files(2)
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="found other files in it"):
        write_store(out, ids, files, SETTINGS)
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    write_store(out, ids, files, SETTINGS)
    file = out.with_name("file")
    file.write_text("mine")
    with pytest.raises(UsageError, match="a file of that name is in the way"):
        write_store(file, ids, files, SETTINGS)


def test_a_damaged_store_is_made_again(make_files, out):
    ids, files = make_files(3)
    whole = contents(write_store(out, ids, files, SETTINGS).folder)
    os.truncate(out / "pixels.bin", 100)
    write_store(out, ids, files, SETTINGS)
    assert contents(out) == whole


def test_records_hold_digests_of_file_and_pixels(make_files, out):
    ids, files = make_files(3)
    found = write_store(out, ids, files, SETTINGS).images(ids).fingerprints()
    pixels = np.asarray(Image.open(files[1]))
    expected = hashlib.sha256(f"uint8 {pixels.shape}\n".encode() + pixels.tobytes()).hexdigest()
    assert found.pixels[1] == expected
    assert found.files[1] == hashlib.sha256(files[1].read_bytes()).hexdigest()
    assert chunk.RECORD.itemsize <= 200  # a picture, in memory
