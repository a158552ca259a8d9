"""Data of one's own through the command line: run, audit, and test a run on other data."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

TINY = ["--recipe", "digits", "--epochs", "1", "--batch-size", "8"]
COLOURS = {"mel": (90, 40, 40), "nev": (180, 120, 90), "bcc": (220, 150, 160)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path, colour, seed, size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 12, (size, size, 3))
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(path)


def write_table(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def make(folder, *, count=15, seed=0, names=COLOURS, prefix="a"):
    """`table.csv` in a folder of pictures: image, label, patient; three images a patient."""
    rows = []
    for c, (name, colour) in enumerate(names.items()):
        for i in range(count):
            image = f"{prefix}{c}_{i:03d}"
            draw(folder / f"{image}.png", colour, seed + 1000 * c + i)
            rows.append([image, name, f"{prefix}p{c}-{i // 3}"])
    write_table(folder / "table.csv", ["image", "label", "patient_id"], rows)
    return rows


def run_of(bench, folder, *more):
    arguments = ("--method", "ce", "--dataset", "csv", "--set", f"dataset.csv={folder}/table.csv")
    answer = bench("run", *arguments, *TINY, *more)
    assert answer.code == 0, answer.err
    return re.search(r"^key: +(\w+)$", answer.out, re.M)[1]


def test_a_table_is_split_by_patient(place, bench):
    make(place / "own")
    key = run_of(bench, place / "own")
    assert (place / "results" / "runs" / "csv" / "group" / "ce" / key).is_dir()
    table = bench("table").out
    assert "0 of 9 test images (0.0 %) share a patient with the training part" in table
    assert "no patient is in two parts" in table
    shown = json.loads(bench("data", "show", "own/table.csv", "--json").out)
    assert shown["protocol"] == "group"
    assert shown["notes"]["columns"]["group"] == "patient_id"


def test_where_a_table_lies_is_no_part_of_the_key(place, bench):
    make(place / "own")
    key = run_of(bench, place / "own")
    (place / "own").rename(place / "moved")
    assert run_of(bench, place / "moved") == key


def test_a_given_split_that_leaks_is_refused_unless_asked_for(place, bench):
    rows = make(place / "own")
    parts = [("test", "val", "train")[i % 3] for i in range(len(rows))]
    table = place / "own" / "table.csv"
    header = ["image", "label", "patient_id", "split"]
    write_table(table, header, [[*row, part] for row, part in zip(rows, parts, strict=True)])
    arguments = ("run", "--method", "ce", "--dataset", "csv", "--set", f"dataset.csv={table}")
    refused = bench(*arguments, *TINY)
    assert refused.code == 4
    assert "15 of 15 test images (100.0 %) share a patient with the training part" in refused.err
    assert not list((place / "results").rglob("record.json"))
    audited = bench("data", "audit", table)
    assert audited.code == 4
    assert "LEAK (group)" in audited.out
    allowed = bench(*arguments, *TINY, "--set", "allow_leak=true")
    assert allowed.code == 0
    assert "15 of 15 test images (100.0 %) share a patient" in bench("table").out


def test_validation_that_shares_groups_is_refused_too(place, bench):
    rows = make(place / "own")
    parts = [("val", "train", "train")[i % 3] if i % 15 < 9 else "test" for i in range(len(rows))]
    header = ["image", "label", "patient_id", "split"]
    table = place / "own" / "table.csv"
    write_table(table, header, [[*row, part] for row, part in zip(rows, parts, strict=True)])
    arguments = ("run", "--method", "ce", "--dataset", "csv", "--set", f"dataset.csv={table}")
    refused = bench(*arguments, *TINY)
    assert refused.code == 4
    assert "9 of 9 validation images share one with training" in refused.err


def test_the_groups_are_part_of_the_key(place, bench):
    rows = make(place / "own")
    parts = ["test" if i % 15 < 3 else "val" if i % 15 < 6 else "train" for i in range(len(rows))]
    header = ["image", "label", "patient_id", "other", "split"]
    wide = [
        [*row, f"o{i // 6}", part] for i, (row, part) in enumerate(zip(rows, parts, strict=True))
    ]
    write_table(place / "own" / "table.csv", header, wide)
    keys = {
        run_of(bench, place / "own", "--set", f"dataset.group_column={column}", *more)
        for column, more in (
            ("patient_id", ()),
            ("other", ("--set", "allow_leak=true")),
            ("", ()),
        )
    }
    assert len(keys) == 3


def test_a_group_column_that_is_not_wanted(place, bench):
    make(place / "own")
    answer = bench(
        *("data", "show", "own/table.csv", "--json"), *("--set", "dataset.group_column=")
    )
    assert json.loads(answer.out)["protocol"] == "random"


def test_groups_that_are_not_written_down_stand_alone(place, bench):
    rows = make(place / "own")
    words = ("", "nan", "NA", "unknown")
    header = ["image", "label", "patient_id"]
    rows = [[i, label, words[k % 4] if k % 2 else g] for k, (i, label, g) in enumerate(rows)]
    write_table(place / "own" / "table.csv", header, rows)
    facts = json.loads(bench("data", "show", "own/table.csv", "--json").out)
    assert facts["notes"]["groups_fallback"] == len(rows) // 2


def test_equal_pictures_without_groups_are_a_leak_under_any_protocol(place, bench):
    for name, colour in COLOURS.items():
        for i in range(10):
            draw(place / "d" / name / f"{i}.png", colour, i // 2 + 100 * list(COLOURS).index(name))
    answer = bench("data", "audit", "d")
    assert answer.code == 4
    assert "LEAK (file bytes, pixels)" in answer.out


def test_random_on_grouped_data_says_what_it_leaks(place, bench):
    make(place / "own")
    answer = bench("data", "audit", "own/table.csv", "--protocol", "random")
    assert answer.code == 0
    assert "leaks, as this protocol is known to" in answer.out
    assert "share a patient" in answer.out


def test_folds_change_the_test(place, bench):
    make(place / "own")
    tested = set()
    for fold in range(5):
        facts = bench(
            *("data", "audit", "own/table.csv", "--protocol", "kfold", "--json"),
            *("--set", f"dataset.fold={fold}"),
        )
        assert facts.code == 0
        tested.add(json.loads(facts.out)["split_digest"])
    assert len(tested) == 5


def test_class_folders(place, bench):
    for c, (name, colour) in enumerate(COLOURS.items()):
        for i in range(12):
            draw(place / "d" / name / f"{i}.png", colour, 1000 * c + i)
    answer = bench("run", "--method", "ecl", "--dataset", "folder", "--data-root", "d", *TINY)
    assert answer.code == 0, answer.err
    assert (place / "results" / "runs" / "folder" / "random" / "ecl").is_dir()
    assert "needs to know where" in bench("run", "--method", "ce", "--dataset", "folder").err
    assert bench("data", "audit", "d").code == 0


def test_equal_pictures_in_two_parts_are_found(place, bench):
    for part, count in (("train", 6), ("test", 4)):
        for c, (name, colour) in enumerate(COLOURS.items()):
            for i in range(count):
                seed = 0 if i == 0 and c == 1 else 100 * c + i + 1000 * (part == "test") + 1
                draw(place / "d" / part / name / f"{part}{i}.png", colour, seed)
    answer = bench("data", "audit", "d")
    assert answer.code == 4
    assert "test/nev/test0.png" in answer.out
    assert "shared, pixels: 1 of 12 images of test" in answer.out


def test_path_lists(place, bench):
    lines = {"train": [], "val": [], "test": []}
    for c, (name, colour) in enumerate(COLOURS.items()):
        for i in range(12):
            draw(place / "d" / name / f"{i}.png", colour, 1000 * c + i)
            part = "test" if i < 3 else "val" if i < 5 else "train"
            lines[part].append(f"{name}/{i}.png {c}\n")
    for part, found in lines.items():
        (place / f"{part}.txt").write_text("".join(found))
    named = [word for p in lines for word in ("--set", f"dataset.{p}={p}.txt")]
    answer = bench("run", "--method", "ce", "--dataset", "lists", "--data-root", "d", *named, *TINY)
    assert answer.code == 0, answer.err
    assert (place / "results" / "runs" / "lists" / "given" / "ce").is_dir()
    lacking = bench("run", "--method", "ce", "--dataset", "lists", "--data-root", "d", *named[:2])
    assert (lacking.code, "dataset.test=FILE" in lacking.err) == (2, True)


@pytest.mark.parametrize("target", ["nothing.csv", "somewhere"])
def test_a_target_that_is_nothing(place, bench, target):
    answer = bench("data", "audit", target)
    assert answer.code == 2
    assert "Nor is there a file or folder" in answer.err


class TestExternal:
    def external(self, bench, key, *more):
        table = ("--dataset", "csv", "--set", "dataset.csv=other/table.csv")
        return bench("test", key, *table, *more)

    @pytest.fixture
    def key(self, place, bench):
        make(place / "own")
        return run_of(bench, place / "own")

    def test_is_kept_apart_and_can_be_recomputed(self, place, bench, key):
        make(place / "other", seed=5000, prefix="b", count=4)
        answer = self.external(bench, key, "--json")
        assert answer.code == 0, answer.err
        record = json.loads(answer.out)
        (stored,) = place.rglob("external/*/record.json")
        assert json.loads(stored.read_text()) == record
        assert record["num_images"] == 12
        assert record["shared_with_training"] == {"ids": 0, "groups": 0, "pixels": 0}
        with np.load(stored.with_name("predictions.npz")) as predictions:
            right = predictions["test/logits"].argmax(1) == predictions["test/targets"]
        assert record["metrics"]["test"]["accuracy"] == pytest.approx(right.mean())
        assert "other" not in bench("table").out
        clinical = bench("eval", stored.parent, "--positive", "mel", "--per-lesion")
        assert clinical.code == 0, clinical.err
        assert "external test" in clinical.out
        assert "mel against the rest" in clinical.out

    def test_gives_the_logits_of_the_run_for_its_own_pictures(self, place, bench, key):
        """Read back from its folder, the method is the one that was tested."""
        (file,) = (place / "results").rglob("predictions.npz")
        with np.load(file) as stored:
            ids, logits = stored["test/ids"].tolist(), stored["test/logits"]
        rows = [r for r in make(place / "own") if r[0] in ids]
        (place / "other").mkdir()
        for image, *_ in rows:
            (place / "own" / f"{image}.png").rename(place / "other" / f"{image}.png")
        write_table(place / "other" / "table.csv", ["image", "label", "patient_id"], rows)
        assert self.external(bench, key).code == 0
        (again,) = place.rglob("external/*/predictions.npz")
        with np.load(again) as stored:
            order = [stored["test/ids"].tolist().index(name) for name in ids]
            np.testing.assert_array_equal(stored["test/logits"][order], logits)

    def test_classes_are_mapped_and_left_out(self, place, bench, key):
        theirs = {"melanoma": COLOURS["mel"], "nev": COLOURS["nev"], "wart": (0, 0, 200)}
        make(place / "other", seed=5000, prefix="b", count=4, names=theirs)
        refused = self.external(bench, key)
        assert refused.code == 2
        assert "melanoma, wart" in refused.err
        assert not (place / "home" / "stores").exists() or "Decoding" not in refused.err
        write_table(
            place / "map.csv",
            ["theirs", "ours"],
            [["melanoma", "mel"], ["nev", "nev"], ["wart", ""]],
        )
        answer = self.external(bench, key, "--label-map", "map.csv")
        assert answer.code == 0, answer.err
        assert "left out by the label map: wart 4" in answer.out
        (stored,) = place.rglob("external/*/predictions.npz")
        with np.load(stored) as predictions:
            names = predictions["test/class_names"].tolist()
            counts = np.bincount(predictions["test/targets"], minlength=3)
        assert dict(zip(names, counts.tolist(), strict=True)) == {"mel": 4, "nev": 4, "bcc": 0}

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([["mel", "mel"], ["nev", "nev"]], "bcc"),
            ([["mel", "mole"], ["nev", "nev"], ["bcc", "bcc"]], "mole"),
            ([["mel", ""], ["nev", ""], ["bcc", ""]], "every class is left out"),
        ],
    )
    def test_bad_maps(self, place, bench, key, rows, message):
        make(place / "other", seed=5000, prefix="b", count=4)
        write_table(place / "map.csv", ["theirs", "ours"], rows)
        answer = self.external(bench, key, "--label-map", "map.csv")
        assert answer.code in (2, 4)
        assert message in answer.err

    def test_pictures_it_was_trained_on_are_refused(self, place, bench, key):
        make(place / "other", prefix="b")  # other names, the same pixels
        by_pixels = self.external(bench, key)
        assert (by_pixels.code, "pixels" in by_pixels.err) == (2, True)
        make(place / "other", seed=5000)  # the same names, other pixels
        by_name = self.external(bench, key)
        assert by_name.code == 0
        assert re.search(r"WARNING: \d+ images have names", by_name.out)

    def test_tables_that_nothing_could_be_trained_on(self, place, bench, key):
        rows = make(place / "other", seed=5000, prefix="b", count=3)
        only = [[image, label, "test"] for image, label, _ in rows if label == "mel"]
        write_table(place / "other" / "table.csv", ["image", "label", "split"], only)
        answer = self.external(bench, key, "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["num_images"] == 3

    def test_groups_it_knows_are_warned_of(self, place, bench, key):
        rows = make(place / "other", seed=5000, prefix="b", count=4)
        rows = [[image, label, "ap0-1"] for image, label, _ in rows]
        write_table(place / "other" / "table.csv", ["image", "label", "patient_id"], rows)
        answer = self.external(bench, key)
        with np.load(next(place.rglob("seen.npz"))) as seen:
            is_known = "ap0-1" in seen["groups"].tolist()
        assert answer.code == 0, answer.err
        assert ("WARNING: 1 groups" in answer.out) == is_known

    def test_an_unknown_run(self, place, bench):
        answer = bench("test", "feed", "--dataset", "digits_lt")
        assert (answer.code, "No run 'feed'" in answer.err) == (2, True)

    def test_pictures_of_other_channels(self, place, bench, key):
        rows = [[str(digit), "mel"] for digit in range(10)]
        write_table(place / "map.csv", ["theirs", "ours"], rows)
        answer = bench("test", key, "--dataset", "digits_lt", "--label-map", "map.csv")
        assert answer.code == 2
        assert "takes pictures of 3 channels, the data have 1" in answer.err


def test_pictures_of_other_pixels_have_a_table_of_their_own(place, bench):
    """The same names, parts and classes: two clinics that number their pictures alike."""
    for seed in (0, 5000):
        make(place / "own", seed=seed)
        run_of(bench, place / "own")
    assert bench("table").out.count("Data set: csv") == 2


def test_sizes_that_the_recipe_cannot_batch_are_refused_before_training(place, bench):
    for i, name in enumerate(COLOURS):
        for k in range(10):
            draw(place / "d" / name / f"{k}.png", (9, 9, 9), 50 * i + k, size=16 + 2 * k)
    answer = bench("run", "--method", "ce", "--dataset", "folder", "--data-root", "d", *TINY)
    assert answer.code == 2
    assert "Begin it with a resize" in answer.err


def test_a_run_warns_of_pictures_in_two_parts(place, bench):
    for part, count in (("train", 6), ("val", 3), ("test", 3)):
        for c, (name, colour) in enumerate(COLOURS.items()):
            for i in range(count):
                seed = 0 if i == 0 and c == 1 and part != "val" else 1000 * len(part) + 100 * c + i
                draw(place / "d" / part / name / f"{part}{i}.png", colour, seed)
    answer = bench("run", "--method", "ce", "--dataset", "folder", "--data-root", "d", *TINY)
    assert answer.code == 0
    assert "WARNING: 1 of 9 images of test are in train too, by pixels" in answer.err
    assert "1 test images are in train by pixels" in bench("table").out


def test_equal_pictures_of_two_classes_are_named(place, bench):
    for c, (name, colour) in enumerate(COLOURS.items()):
        for i in range(10):
            draw(place / "d" / name / f"{i}.png", colour, 100 * c + i)
    for name in list(COLOURS)[:2]:
        draw(place / "d" / name / "9.png", (5, 5, 5), 1)
    assert "equal pixels, different classes" in bench("data", "audit", "d").out


def test_the_python_twins_take_text_for_paths(place):
    import ltbench

    make(place / "own")
    make(place / "other", seed=5000, prefix="b", count=3)
    settings = {"dataset.csv": "own/table.csv", "epochs": 1, "batch_size": 8}
    (outcome,) = ltbench.run("ce", "csv", recipe="digits", settings=settings, results="out")
    assert ltbench.audit_data("own/table.csv")["verdict"].startswith("clean")
    table = {"dataset.csv": str(place / "other" / "table.csv")}
    found = ltbench.external_test(outcome, "csv", settings=table, results="out")
    assert found.record["num_images"] == 9
    assert "csv" in ltbench.table(results="out")[0]
