"""Data sets of files: when the store is made, and when it no longer fits the files."""

import os

import numpy as np
import pytest
from PIL import Image

from ltbench.dataset import PrepareRequest
from ltbench.datasets.folder import Folder
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.store.layout import Store


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "home"))
    return tmp_path


def fill(root, count=6, size=(40, 30)):
    rng = np.random.default_rng(0)
    for name in ("red", "blue"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def folder(root, **settings):
    return Folder(Folder.Config(**settings), root)


def test_the_first_load_decodes_and_the_next_reads(home, caplog, monkeypatch):
    root = fill(home / "d")
    first = folder(root).load("random")
    assert "Decoding 12 pictures once" in caplog.text
    monkeypatch.setattr("ltbench.store.dataset.write_store", None)
    again = folder(root).load("random")
    assert again.images.digest() == first.images.digest()
    with Image.open(root / "blue" / "0.png") as picture:
        at = first.ids.tolist().index("blue/0.png")
        np.testing.assert_array_equal(first.images.picture(at), np.asarray(picture))


def test_a_changed_file_is_decoded_anew(home, caplog):
    root = fill(home / "d")
    before = folder(root).load("random")
    changed = root / "red" / "3.png"
    Image.new("RGB", (40, 30), (1, 2, 3)).save(changed)
    after = folder(root).load("random")
    assert f"{changed} was changed since" in caplog.text
    assert after.images.digest() != before.images.digest()
    at = after.ids.tolist().index("red/3.png")
    assert after.images.picture(at)[0, 0].tolist() == [1, 2, 3]


def test_a_new_file_is_noticed(home, caplog):
    root = fill(home / "d")
    folder(root).load("random")
    Image.new("RGB", (40, 30)).save(root / "red" / "new.png")
    assert len(folder(root).load("random").ids) == 13
    assert "'red/new.png' is not in it" in caplog.text


def test_copied_files_are_the_same_pictures(home):
    digests = []
    for name in ("a", "b"):
        root = fill(home / name)
        os.utime(root / "red" / "0.png", (1, 1))
        digests.append(folder(root).load("random").images.digest())
    assert digests[0] == digests[1]


def test_settings_make_stores_of_their_own(home):
    root = fill(home / "d")
    plain, small = folder(root), folder(root, short_side=16, squares=())
    assert plain.store_folder() != small.store_folder()
    assert small.load("random").images.sizes[0].tolist() == [16, 21]
    assert plain.load("random").images.sizes[0].tolist() == [30, 40]
    assert plain.load("random").images.prepared(224, 224) is not None
    assert small.load("random").images.prepared(224, 224) is None


def test_a_store_can_be_put_elsewhere_and_no_key_knows(home):
    root = fill(home / "d")
    moved = folder(root, store=home / "fast")
    moved.load("random")
    assert [p.name for p in (home / "fast").iterdir() if p.is_dir()]
    assert moved.config.identity() == folder(root).config.identity()


def test_broken_pictures_are_named_or_left_out(home):
    root = fill(home / "d")
    (root / "red" / "0.png").write_bytes(b"<html>")
    (root / "blue" / "1.png").write_bytes(b"")
    with pytest.raises(VerificationError) as error:
        folder(root).load("random")
    assert "red/0.png" in str(error.value)
    assert "blue/1.png" in str(error.value)
    source = folder(root, skip_broken=True).load("random")
    assert sorted(source.notes["left_out"]) == ["blue/1.png", "red/0.png"]
    assert len(source.ids) == len(source.images) == len(source.targets) == 10


def test_a_mended_picture_comes_back(home):
    root = fill(home / "d")
    (root / "red" / "0.png").write_bytes(b"")
    assert len(folder(root, skip_broken=True).load("random").ids) == 11
    Image.new("RGB", (40, 30)).save(root / "red" / "0.png")
    source = folder(root).load("random")
    assert len(source.ids) == 12
    assert "left_out" not in source.notes


def test_a_store_that_is_replaced_is_not_read_with_the_old_index(home):
    """Nothing was read of the first when the second took its place."""
    root = fill(home / "d")
    expected = [np.asarray(Image.open(root / n)) for n in ("blue/0.png", "red/5.png")]
    source = folder(root).load("random")
    at = [source.ids.tolist().index(name) for name in ("blue/0.png", "red/5.png")]
    Image.new("RGB", (400, 300), (9, 9, 9)).save(root / "blue" / "0.png")
    folder(root).load("random")
    for position, picture in zip(at, expected, strict=True):
        np.testing.assert_array_equal(source.images.picture(position), picture)
    assert source.images.prepared(224, 224).picture(at[0]).std() > 10


def test_prepare_notices_damaged_pixels(home):
    root = fill(home / "d")
    folder(root).prepare(PrepareRequest())
    pixels = folder(root).store_folder() / "pixels.bin"
    data = bytearray(pixels.read_bytes())
    data[100] ^= 255
    pixels.write_bytes(data)
    with pytest.raises(VerificationError, match="changed since writing"):
        folder(root).prepare(PrepareRequest())


def test_prepare_says_what_it_did(home):
    root = fill(home / "d")
    Image.new("L", (40, 30), 7).save(root / "red" / "0.png")
    (root / "blue" / "1.png").write_bytes(b"")
    said = []
    folder(root).prepare(PrepareRequest(skip_broken=True, say=said.append))
    assert any("converted, grey: 1" in line for line in said)
    assert any("left out: blue/1.png" in line for line in said)
    assert len(Store.open(folder(root).store_folder()).ids) == 11


def test_the_store_outlives_the_files(home):
    root = fill(home / "d")
    source = folder(root).load("random")
    (root / "red" / "5.png").unlink()
    again = folder(root).load("random")
    assert "red/5.png" not in again.ids.tolist()
    assert len(again.ids) == len(source.ids) - 1


def test_a_folder_that_is_not_named_or_not_there(home):
    with pytest.raises(UsageError, match="--data-root"):
        folder(None).load("random")
    with pytest.raises(DataMissingError, match="found none"):
        folder(home / "nowhere").load("random")


def test_unread_sources_know_their_tables(home):
    root = fill(home / "d")
    source = folder(root).unread("random", "not opened")
    assert len(source.ids) == 12
    with pytest.raises(DataMissingError, match="not opened"):
        source.images.picture(0)
