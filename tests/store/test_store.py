from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from ltbench.data.images import common_shape, pixels_digest
from ltbench.dataset import Images
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.store.contents import contents_of
from ltbench.store.layout import Store, StoreSettings
from ltbench.store.writer import write_store

SETTINGS = StoreSettings(short_side=32, squares=(16, 48))


@pytest.fixture
def made(make_files, tmp_path):
    """A store of eight pictures, and their files."""
    ids, files = make_files(8)
    return write_store(tmp_path / "store", ids, files, SETTINGS), files


def original(file):
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def flipped(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_pictures_are_resized_as_torchvision_does(made):
    store, files = made
    images = store.images(store.ids)
    assert images.sizes.tolist() == [[32, 48], [42, 32], [32, 32], [20, 90]] * 2
    for position, file in enumerate(files[:4]):
        kept = original(file)
        if min(kept.shape[1:]) > 32:
            kept = v2.functional.resize(kept, [32], InterpolationMode.BICUBIC, antialias=True)
        assert (images.picture(position) == kept.permute(1, 2, 0).numpy()).all()
        for side in (16, 48):
            square = v2.Resize((side, side))(original(file)).permute(1, 2, 0).numpy()
            assert (images.prepared(side, side).picture(position) == square).all()


def test_settings_choose_sizes():
    assert StoreSettings().stored_size(450, 600) == (256, 341)
    assert StoreSettings().stored_size(1024, 1024) == (256, 256)
    assert StoreSettings().stored_size(100, 900) == (100, 900)
    assert StoreSettings(short_side=300).stored_size(767, 1022) == (300, 399)
    for wrong in ({"short_side": 0}, {"squares": (8, 8)}, {"squares": (0,)}):
        with pytest.raises(UsageError, match="Expected sides"):
            StoreSettings(**wrong)


def test_images_fulfil_the_contract(made):
    store, _ = made
    images: Images = store.images(store.ids[[5, 0, 2, 6]])
    assert (len(images), images.channels, images.on_disk) == (4, 3, True)
    assert images.sizes.dtype == np.int64
    assert images.sizes.tolist() == [[42, 32], [32, 48], [32, 32], [32, 32]]
    taken = images.take(np.array([3, 2]))
    assert taken.shape == (2, 3, 32, 32)
    assert taken.is_contiguous()
    assert (taken[1].permute(1, 2, 0).numpy() == images.picture(2)).all()
    part = images.subset(np.array([3, 1]))
    assert (part.picture(1) == images.picture(1)).all()
    assert (part.prepared(16, 16).picture(0) == images.prepared(16, 16).picture(3)).all()
    images.soon(np.array([0, 3]))
    images.prepared(48, 48).soon(np.array([], dtype=np.int64))
    assert images.take(np.array([], dtype=np.int64)).shape == (0, 3, 0, 0)
    with pytest.raises(UsageError, match="found 2 sizes"):
        images.take(np.array([0, 1]))
    with pytest.raises(UsageError, match="found 3 sizes"):
        common_shape(images)


def test_prepared_are_the_squares_alone(made):
    images = made[0].images(made[0].ids)
    assert images.prepared(16, 48) is None
    assert images.prepared(32, 32) is None
    squares = images.prepared(48, 48)
    assert common_shape(squares) == (3, 48, 48)
    assert squares.take(np.arange(8)).shape == (8, 3, 48, 48)
    assert squares.prepared(16, 16).sizes.tolist() == [[16, 16]] * 8


def test_a_picture_is_a_view_that_nobody_can_write_to(made):
    images = made[0].images(made[0].ids)
    first, again = images.picture(0), images.picture(0)
    assert np.shares_memory(first, again)
    assert first.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0, 0] = 1


def test_the_digest_is_of_these_pictures_in_this_order(made, make_files, tmp_path):
    store, files = made
    ids = store.ids
    digest = store.images(ids[2:5]).digest()
    assert len(digest) == 64
    assert store.images(ids[[2, 4, 3]]).digest() != digest
    assert store.images(ids[2:6]).digest() != digest
    assert store.images(ids).subset(np.arange(2, 5)).digest() == digest
    fewer = write_store(tmp_path / "fewer", ids[1:6], files[1:6], SETTINGS)
    assert fewer.images(ids[2:5]).digest() == digest
    other = write_store(tmp_path / "other", ids, files, StoreSettings(32, (16,)))
    assert other.images(ids[2:5]).digest() != digest
    squares = {store.images(ids[2:5]).prepared(side, side).digest() for side in (16, 48)}
    assert len(squares | {digest}) == 3


def test_the_digest_reads_no_pixels(made):
    store, _ = made
    digest = store.images(store.ids).digest()
    flipped(store.folder / "pixels.bin", 100)
    assert Store.open(store.folder).images(store.ids).digest() == digest


def test_fingerprints_are_of_the_originals(made):
    store, files = made
    found = store.images(store.ids[[3, 1]]).fingerprints()
    assert found.files.shape == found.pixels.shape == (2,)
    assert found.pixels[1] == pixels_digest(np.array(Image.open(files[1])))
    assert store.images(store.ids).prepared(16, 16).fingerprints().pixels[1] == found.pixels[1]


def test_pickled_images_are_rows_of_a_folder(made):
    store, _ = made
    images = store.images(store.ids[[5, 0]])
    expected = images.picture(0).copy()
    data = pickle.dumps((images, images.prepared(16, 16)))
    assert len(data) < 1200
    received, squares = pickle.loads(data)
    assert (received.picture(0) == expected).all()
    assert received.digest() == images.digest()
    assert squares.sizes.tolist() == [[16, 16]] * 2
    assert received._contents is squares._contents


def test_pickled_images_notice_another_store(made):
    store, files = made
    data = pickle.dumps(store.images(store.ids))
    write_store(store.folder, store.ids[:5], files[:5], SETTINGS)
    contents_of.cache_clear()
    with pytest.raises(VerificationError, match="was replaced by another while it was in use"):
        pickle.loads(data).picture(0)


def test_open_maps_outlive_a_replacement(made):
    store, files = made
    images = store.images(store.ids)
    before = images.picture(0).copy()
    write_store(store.folder, store.ids[:5], files[:5], SETTINGS)
    assert (images.picture(0) == before).all()


def test_missing_ids_are_named(made):
    store, _ = made
    assert len(store.images(np.array([], dtype=str))) == 0
    with pytest.raises(DataMissingError) as caught:
        store.images(np.array(["p1", *(f"x{i}" for i in range(12))]))
    assert "lacks 12 pictures: x0, x1" in str(caught.value)
    assert "x9 and 2 more" in str(caught.value)
    assert "data prepare" in str(caught.value)


def test_what_a_store_tells(made):
    store, files = made
    opened = Store.open(store.folder)
    assert opened.settings == SETTINGS
    assert opened.ids.tolist() == [f"p{i}" for i in range(8)]
    stats = [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    assert opened.file_stats.tolist() == stats
    assert (opened.conversions, opened.left_out) == ({}, [])
    header = json.loads((store.folder / "store.json").read_text())
    assert {"simplejpeg", "torch", "pillow"} <= set(header["made_with"])
    opened.verify()


@pytest.mark.parametrize("name", ["pixels.bin", "square-48.bin"])
def test_verify_names_changed_pictures(made, name):
    store, _ = made
    file = store.folder / name
    flipped(file, 10)
    flipped(file, file.stat().st_size - 10)
    with pytest.raises(VerificationError, match=r"2 pictures changed since writing: p0, p7\."):
        Store.open(store.folder).verify()


def test_no_store_and_half_a_store(made, tmp_path):
    store, _ = made
    with pytest.raises(DataMissingError, match=r"no finished store at .*nowhere"):
        Store.open(tmp_path / "nowhere")
    (store.folder / "store.json").unlink()
    with pytest.raises(DataMissingError, match="data prepare"):
        Store.open(store.folder)


def test_damage_is_seen_when_a_store_is_opened(made, tmp_path):
    store, _ = made

    def damaged(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store.folder, copy)
        change(copy)
        with pytest.raises(VerificationError) as caught:
            Store.open(copy)
        assert "prepare the data set again" in str(caught.value) or "Restore" in str(caught.value)
        return str(caught.value)

    size = (store.folder / "pixels.bin").stat().st_size
    text = damaged(lambda copy: os.truncate(copy / "pixels.bin", size - 1))
    assert f"Expected {size} bytes in" in text
    assert f"it has {size - 1}" in text
    assert "none is there" in damaged(lambda copy: (copy / "square-16.bin").unlink())
    assert "index.npz is damaged" in damaged(lambda copy: flipped(copy / "index.npz", 500))
    assert "expected JSON" in damaged(lambda copy: os.truncate(copy / "store.json", 50))
    for wrong in ("[]", "{}", '{"format":1}'):
        text = damaged(lambda copy, text=wrong: (copy / "store.json").write_text(text))
        assert "store.json is damaged" in text
    header = (store.folder / "store.json").read_text()
    text = damaged(lambda copy: (copy / "store.json").write_text(header.replace("p", "q")))
    assert "its digest does not fit" in text


def test_another_format_is_no_damage(made):
    store, _ = made
    file = store.folder / "store.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataMissingError, match="has format 2; this version reads format 1"):
        Store.open(store.folder)


def test_a_store_that_was_removed(made):
    store, _ = made
    images = store.images(store.ids)
    shutil.rmtree(store.folder)
    before = images.digest()
    assert images.picture(0).size  # what was open stays open
    assert images.digest() == before
    with pytest.raises(DataMissingError):
        pickle.loads(pickle.dumps(images)).picture(0)
