"""Mistakes, and their pictures from a data set that is here."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import read
from site_runs import row

from ltbench.data.lists import source_digest
from ltbench.predictions import Predictions
from ltbench.registry import DATASETS
from ltbench.results import run_folders
from ltbench.site.mistakes import confident_mistakes
from ltbench.site.pictures import SIDE, thumbnail
from ltbench.site.shown import percent


def of(logits, targets, ids=None):
    logits = np.asarray(logits, dtype=np.float32)
    names = tuple(f"c{i}" for i in range(logits.shape[1]))
    ids = np.array([f"i{i}" for i in range(len(targets))] if ids is None else ids)
    return Predictions(ids, np.asarray(targets), logits, names)


def test_mistakes_are_ordered_by_the_probability_of_what_was_predicted():
    logits = [[3, 0, 0], [0, 1, 0], [0, 5, 0], [9, 0, 0], [0, 0, 0]]
    found, number = confident_mistakes(of(logits, [1, 0, 0, 0, 2]), 2)
    assert number == 4
    assert [one.image for one in found] == ["i2", "i0"]
    first = found[0]
    assert (first.truth, first.predicted, first.group) == ("c0", "c1", None)
    assert first.probability == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert first.of_truth == pytest.approx(1 / (np.exp(5) + 2))


def test_equal_mistakes_stand_by_name():
    given = of([[1, 0]] * 3, [1, 1, 1], ["b", "c", "a"])
    assert [one.image for one in confident_mistakes(given, 9)[0]] == ["a", "b", "c"]
    assert confident_mistakes(of([[1, 0]], [0]), 9) == ([], 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100.0 %"), (0.99999, "> 99.9 %"), (0.5, "50.0 %"), (1e-9, "< 0.1 %"), (0, "0.0 %")],
)
def test_no_probability_is_rounded_to_certainty(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8, 1), (160, 160)), ((450, 600, 3), (160, 120)), ((100, 90, 3), (90, 100)),
     ((1, 1000, 3), (160, 1)), ((28, 20, 1), (100, 140))],
)  # fmt: skip
def test_thumbnails(shape, size):
    picture = np.full(shape, 200, dtype=np.uint8)
    picture.setflags(write=False)
    image = Image.open(io.BytesIO(thumbnail(picture)))
    assert image.format == "JPEG"
    assert image.size == size
    assert max(image.size) <= SIDE
    assert abs(int(np.asarray(image).mean()) - 200) < 3
    assert not image.getexif()


@pytest.fixture(scope="module")
def digits():
    plugin = DATASETS["digits_lt"]
    return plugin(plugin.Config()).load("held_out")


def runs_on(root, source, name="ce", **parts):
    """Two seeds whose test images are the first hundred of a data set."""
    targets = source.targets[:100]
    logits = np.zeros((100, 10), dtype=np.float32)
    logits[np.arange(100), (targets + (np.arange(100) < 20)) % 10] = np.linspace(1, 3, 100)
    given = Predictions(source.ids[:100], targets, logits, source.class_names)
    key_parts = {
        "image_digest": source.images.digest(),
        "source_digest": source_digest(source),
        "config": {},
        **parts,
    }
    facts = {"dataset": "digits_lt", "protocol": "held_out", "key_parts": key_parts}
    row(root, name, 1.0, seeds=2, test=given, **facts)
    for run in run_folders(root):
        run.write_config({"method_name": name, "dataset_name": "digits_lt", "dataset": {}})
    return root


def test_pictures_are_those_of_the_mistakes(site, tmp_path, digits):
    root = runs_on(tmp_path / "r", digits)
    folder, made = site(root)
    # Both seeds show the same twelve, which are copied once.
    assert made.num_pictures == {"digits_lt": 12}
    assert len(list((folder / "pictures").iterdir())) == 12
    assert made.privacy[0].startswith("The site holds 12 pictures of digits_lt (licence: CC BY 4.0")
    page = folder / "runs" / f"{next(run_folders(root)).record()['key']}-seed-0.html"
    items = read(page).with_class("mistakes")[0].all("li")
    position = {name: i for i, name in enumerate(digits.ids.tolist())}
    for item in items:
        (image,) = item.all("img")
        shown = np.asarray(Image.open(page.parent / image.get("src")), dtype=float)
        name = next(item.all("code")).text
        wanted = digits.images.picture(position[name])[:, :, 0].astype(float)
        small = shown.reshape(8, 20, 8, 20).mean(axis=(1, 3))
        assert np.abs(small - wanted).max() < 8
        assert name in image.get("alt")


def test_without_pictures(site, tmp_path, digits):
    root = runs_on(tmp_path / "r", digits)
    site(root)
    folder, made = site(root, pictures=False)
    assert made.num_pictures == {}
    assert made.privacy == []
    assert not (folder / "pictures").exists()
    page = read(next((folder / "runs").iterdir())).text
    assert "made without pictures" in page
    assert "block-" in page or "digits-" in page


def test_other_pictures_of_the_same_names_are_not_shown(site, tmp_path, digits):
    root = runs_on(tmp_path / "r", digits, image_digest="0" * 64)
    folder, made = site(root)
    assert made.num_pictures == {}
    page = read(next((folder / "runs").iterdir())).text
    assert "The data set here is not the run's: its image digest differs" in page
    assert "digits-" in page
    _, again = site(root)
    assert again.num_written == 0


def test_pictures_that_come_later_are_taken(site, tmp_path, digits, monkeypatch):
    root = runs_on(tmp_path / "r", digits)
    with monkeypatch.context() as patched:
        patched.setattr("ltbench.site.pictures.DATASETS", {})
        folder, made = site(root)
        assert "The data set 'digits_lt' is not installed here." in (
            read(next((folder / "runs").iterdir())).text
        )
    assert made.num_pictures == {}
    _, made = site(root)
    assert made.num_pictures == {"digits_lt": 12}


def test_a_picture_that_cannot_be_read_is_told(site, tmp_path, digits, monkeypatch):
    from ltbench.data.images import ArrayImages
    from ltbench.errors import VerificationError

    root = runs_on(tmp_path / "r", digits)
    whole = ArrayImages.picture

    def picture(self, position):
        if position % 2:
            raise VerificationError("damaged")
        return whole(self, position)

    monkeypatch.setattr(ArrayImages, "picture", picture)
    folder, made = site(root)
    assert 0 < made.num_pictures["digits_lt"] < 12
    assert "picture not readable" in read(next((folder / "runs").iterdir())).text


def test_strangers_configurations_open_no_file_of_ours(tmp_path):
    from ltbench.site.pictures import Shelf

    shelf = Shelf(lambda file, data: None, of_strangers=True)
    record = {"dataset": "folder", "protocol": "random", "key_parts": {}}
    assert "data of the row's maker" in shelf.why_not(record, {"folder": "/etc"})
