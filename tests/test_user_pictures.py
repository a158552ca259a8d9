"""`predict`: a user's pictures through the decoding, the views and the averaging of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import ltbench
from ltbench.errors import DataMissingError, RunFailedError, UsageError
from ltbench.registry import DATASETS
from ltbench.runner import Place, run
from ltbench.testing import tiny_run
from ltbench.testing.tiny import tiny_request

ROTATED = 6  # EXIF: turned by 90 degrees
SIDE = 24


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run on grey pictures of 8 x 8 that are held decoded."""
    return tiny_run("ce", tmp_path_factory.mktemp("toy"), {"epochs": 2}).folder


@pytest.fixture(scope="module")
def blobs(toy, tmp_path_factory):
    """The test pictures of that run as files, with the run's own predictions of them."""
    folder = tmp_path_factory.mktemp("blobs")
    source = DATASETS["toy_blobs"](DATASETS["toy_blobs"].Config()).load("held_out")
    stored = toy.read_predictions("test")
    at = {name: i for i, name in enumerate(source.ids.tolist())}
    for name in stored.ids.tolist():
        Image.fromarray(source.images.picture(at[name])[:, :, 0]).save(folder / f"{name}.png")
    return folder, dict(zip(stored.ids.tolist(), stored.logits, strict=True))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A run on a folder of photographs of several sizes, through the store."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, tint in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        (root / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            noise = rng.integers(-40, 40, (30 + i, 50, 3))
            pixels = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "pictures" / name / f"{name}-{i}.png")
    settings = {
        "epochs": 1,
        "dataset.short_side": 32,
        "dataset.squares": [SIDE],
        "dataset.store": str(root / "store"),
        "views.eval": [{"resize": {"size": SIDE}}],
        "views.classify": [{"resize": {"size": SIDE}}, {"hflip": {"p": 0.5}}],
        "weights": "none",
    }
    request = tiny_request("ce", settings, dataset="folder")
    outcome = run(request, Place(results=root / "runs", data_root=root / "pictures"))
    return outcome.folder, root / "pictures"


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_same_pictures_give_the_runs_own_predictions(toy, blobs, tmp_path):
    folder, logits = blobs
    found = ltbench.predict(toy.path, [folder], tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert (found.num_predicted, len(rows), found.broken) == (24, 24, [])
    assert found.num_seen == 0
    for row in rows:
        expected = softmax(logits[Path(row["image"]).stem].astype(np.float64))
        came = [float(row[f"p(blob {i})"]) for i in range(4)]
        np.testing.assert_allclose(came, expected, atol=1e-6)
        assert row["predicted_class"] == f"blob {expected.argmax()}"
        assert row["problem"] == ""


def test_pictures_of_a_store_give_the_runs_own_predictions(colours, tmp_path):
    run, pictures = colours
    stored = run.read_predictions("test")
    logits = dict(zip(stored.ids.tolist(), stored.logits, strict=True))
    out = tmp_path / "out.csv"
    found = ltbench.predict(run.path, [pictures], out)
    rows = {Path(row["image"]).name: row for row in rows_of(out)}
    assert len(rows) == 24
    for name, row in logits.items():
        expected = softmax(row.astype(np.float64))
        came = [float(rows[Path(name).name][f"p({label})"]) for label in stored.class_names]
        np.testing.assert_allclose(came, expected, atol=1e-6)
    # It has learned from most of them, and says so.
    assert found.num_seen == 24 - len(logits)
    assert "among those the run was trained or selected on" in found.notes[0]


def test_exif_alpha_grey_and_sizes(colours, tmp_path):
    run, pictures = colours
    upright = Image.open(pictures / "red" / "red-3.png")
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.convert("RGBA").save(tmp_path / "alpha.png")
    upright.convert("L").save(tmp_path / "grey.tif")
    upright.save(tmp_path / "plain.png")
    names = ["turned.png", "alpha.png", "plain.png", "grey.tif"]
    ltbench.predict(run.path, [tmp_path / name for name in names], tmp_path / "out.csv")
    rows = [tuple(row.values())[1:] for row in rows_of(tmp_path / "out.csv")]
    assert rows[0] == rows[1] == rows[2]
    assert rows[3] != rows[2]


def test_batches_change_nothing(toy, blobs, tmp_path):
    """The toy run predicts 16 at once; sums of other batches differ in their last bits."""
    folder, _ = blobs
    ltbench.predict(toy.path, [folder], tmp_path / "whole.csv")
    whole = {row["image"]: row for row in rows_of(tmp_path / "whole.csv")}
    for file in sorted(folder.glob("*.png"))[14:18]:
        ltbench.predict(toy.path, [file], tmp_path / "one.csv")
        (row,) = rows_of(tmp_path / "one.csv")
        assert row["predicted_class"] == whole[str(file)]["predicted_class"]
        for name in (name for name in row if name.startswith("p(")):
            assert float(row[name]) == pytest.approx(float(whole[str(file)][name]), abs=1e-6)


def test_broken_pictures_are_named(toy, blobs, tmp_path, bench):
    folder, _ = blobs
    good = sorted(folder.glob("*.png"))[0]
    cut, rubbish = tmp_path / "cut.png", tmp_path / "rubbish.jpg"
    cut.write_bytes(good.read_bytes()[:-30])
    rubbish.write_bytes(b"<html>not a picture</html>")
    out = tmp_path / "made" / "out.csv"
    words = ("predict", toy.path, "--images", cut, good, rubbish, "--out", out)
    answer = bench(*words)
    assert answer.code == 1
    assert "2 of 3 pictures could not be read" in answer.err
    assert str(cut) in answer.err
    assert str(rubbish) in answer.err
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [str(cut), str(good), str(rubbish)]
    assert [bool(row["problem"]) for row in rows] == [True, False, True]
    assert [bool(row["predicted_class"]) for row in rows] == [False, True, False]
    answer = bench(*words, "--skip-broken", "--json")
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["num_predicted"] == 1
    assert [one["image"] for one in told["broken"]] == [str(cut), str(rubbish)]
    found = ltbench.predict(toy.path, [cut], out)
    with pytest.raises(RunFailedError, match="1 of 1 pictures could not be read"):
        found.refuse_broken()


def test_colours_for_a_run_on_grey_pictures_are_refused(toy, tmp_path):
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / "grey.png")
    with pytest.raises(UsageError, match=r"red\.png has colours \(3 channels\), but .* takes grey"):
        ltbench.predict(toy.path, [tmp_path / "red.png"], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    ltbench.predict(toy.path, [tmp_path / "grey.png"], tmp_path / "out.csv")
    assert rows_of(tmp_path / "out.csv")[0]["predicted_class"]


def test_another_size_is_refused_where_nothing_resizes_it(toy, tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "large.png")
    with pytest.raises(UsageError, match=r"large\.png is 28 x 28, but .* come out at 8 x 8"):
        ltbench.predict(toy.path, [tmp_path / "large.png"], tmp_path / "out.csv")


def test_nothing_to_predict(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No picture in"):
        ltbench.predict(toy.path, [tmp_path / "empty"], tmp_path / "out.csv")
    with pytest.raises(DataMissingError, match="nothing is there"):
        ltbench.predict(toy.path, [tmp_path / "gone.png"], tmp_path / "out.csv")


def test_files_that_are_left_out_are_named(toy, blobs, tmp_path):
    """A folder's GIF or DICOM files must not vanish without a word."""
    folder, _ = blobs
    one = sorted(folder.glob("*.png"))[0]
    for name in ("a.png", "b.gif", "c.dcm"):
        (tmp_path / name).write_bytes(one.read_bytes())
    found = ltbench.predict(toy.path, [tmp_path], tmp_path / "out.csv")
    assert found.num_predicted == 1
    assert found.left_out == [str(tmp_path / name) for name in ("b.gif", "c.dcm")]
    assert "2 files in folders do not end in .jpg" in found.notes[0]
    found = ltbench.predict(toy.path, [tmp_path, tmp_path / "b.gif"], tmp_path / "made" / "out.csv")
    assert (found.num_predicted, str(tmp_path / "b.gif") in found.left_out) == (2, False)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:7", "cuda:x", "meta"])
def test_devices_that_are_not_here(device, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match="--device"):
        ltbench.predict(toy.path, [tmp_path / "one.png"], tmp_path / "out.csv", device=device)


def test_several_views_are_averaged(toy, blobs, tmp_path, monkeypatch):
    from ltbench.registry import METHODS

    folder, _ = blobs
    one = sorted(folder.glob("*.png"))[0]
    ltbench.predict(toy.path, [one], tmp_path / "single.csv")
    monkeypatch.setattr(METHODS["ce"], "eval_views", ("eval", "classify"))
    ltbench.predict(toy.path, [one], tmp_path / "double.csv")
    single, double = (rows_of(tmp_path / f"{name}.csv") for name in ("single", "double"))
    assert single != double
    assert single[0]["image"] == double[0]["image"]


def test_class_names_that_need_quotes(toy, blobs, tmp_path):
    from ltbench.user_pictures import UserPredictions, _table

    names = ('a, "b"', "<c> & d", "Keratose (gutartig)", "线")
    found = UserPredictions("run", tmp_path / "x.csv", names)
    (tmp_path / "x.csv").write_text(_table(["i.png"], {}, found), encoding="utf-8")
    assert list(rows_of(tmp_path / "x.csv")[0]) == [
        *("image", "predicted_class"),
        *(f"p({name})" for name in names),
        "problem",
    ]
