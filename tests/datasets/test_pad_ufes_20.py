import csv
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from ltbench.dataset import DATASETS, PrepareRequest
from ltbench.datasets.pad_ufes_20 import COLUMNS, PadUfes20
from ltbench.errors import DataMissingError, VerificationError
from ltbench.testing import DatasetConformance

CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
COUNTS = {"ACK": 10, "BCC": 12, "MEL": 6, "NEV": 8, "SCC": 8, "SEK": 8}
NUM_IMAGES = 52


def small_rows():
    """Two images a patient, each of a lesion of its own."""
    names = [name for name, count in COUNTS.items() for _ in range(count)]
    rows = []
    for i, name in enumerate(names):
        facts = dict.fromkeys(COLUMNS, "")
        facts |= {"patient_id": f"PAT_{i // 2}", "lesion_id": str(i), "diagnostic": name}
        facts |= {"age": str(30 + i), "gender": ("FEMALE", "MALE", "")[i // 2 % 3]}
        facts |= {"region": "FACE", "fitspatrick": ("2.0", "")[i % 2], "biopsed": "True"}
        rows.append(facts | {"img_id": f"PAT_{i // 2}_{i}_{900 + i}.png"})
    return rows


def table_of(rows, columns=COLUMNS):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def pictures():
    """PNG files by name."""
    rng, found = np.random.default_rng(0), {}
    for row in small_rows():
        pixels = rng.integers(0, 256, (20, 14, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found[row["img_id"]] = buffer.getvalue()
    return found


def parts():
    names = list(pictures())
    return {
        f"imgs_part_{i + 1}": [str(n) for n in some]
        for i, some in enumerate(np.array_split(names, 3))
    }


def put_table(root, rows=None, **how):
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(table_of(small_rows() if rows is None else rows, **how))


def put_extracted(root, nested=""):
    files = pictures()
    for part, names in parts().items():
        folder = root / nested.format(part) / part
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(files[name])


def put_zips(folder, below=""):
    files = pictures()
    (folder / below).mkdir(parents=True, exist_ok=True)
    for part, names in parts().items():
        with zipfile.ZipFile(folder / below / f"{part}.zip", "w") as archive:
            for name in names:
                archive.writestr(f"{part}/{name}", files[name])


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    monkeypatch.setattr(PadUfes20, "counts", COUNTS)
    monkeypatch.setattr(PadUfes20, "archive_bytes", dict.fromkeys(PadUfes20.archive_bytes, 9999))


def opened(root=None, **settings):
    return PadUfes20(PadUfes20.Config(**settings), root)


def test_counts_of_the_specification(monkeypatch):
    monkeypatch.undo()
    assert DATASETS["pad_ufes_20"] is PadUfes20
    assert list(PadUfes20.counts.values()) == [730, 845, 52, 244, 192, 235]
    assert tuple(PadUfes20.counts) == CLASSES
    assert sum(PadUfes20.counts.values()) == 2298
    assert list(PadUfes20.archive_bytes.values()) == [1_245_184_680, 1_126_646_990, 1_220_565_093]
    assert len(set(COLUMNS)) == 26
    assert DATASETS.info("pad_ufes_20").licence == "CC BY 4.0"


@pytest.mark.parametrize("nested", ["", "{}", "images"])
def test_reads_the_published_layout(nested, tmp_path):
    put_table(tmp_path)
    put_extracted(tmp_path, nested)
    made = opened(tmp_path, num_folds=3)
    table = made.table("group")
    assert len(table) == NUM_IMAGES
    assert table.class_names == CLASSES
    assert table.ids[:2].tolist() == ["PAT_0_0_900", "PAT_0_1_901"]
    assert table.groups[:3].tolist() == ["PAT_0", "PAT_0", "PAT_1"]
    assert "no patient is in two parts" in table.groups_note
    facts = {name: values[:3].tolist() for name, values in table.metadata.items()}
    assert facts == {
        "age": ["30", "31", "32"],
        "sex": ["female", "female", "male"],
        "site": ["face"] * 3,
        "fitspatrick": ["2", "", "2"],
        "biopsed": ["true"] * 3,
        "lesion": ["0", "1", "2"],
    }
    source = made.unread("group", "")
    for protocol in ("group", "kfold"):
        split = made.split(source, protocol, 0)
        assert split.notes["shared_groups"] == 0
        assert sum(len(part) for part in (split.train, split.val, split.test)) == NUM_IMAGES
    assert made.split(source, "random", 0).notes["shared_groups"] > 0
    assert PadUfes20.leaky == {"random"}
    assert PadUfes20.default_protocol == "group"


def test_folds_are_chosen_by_settings(tmp_path):
    put_table(tmp_path)
    put_extracted(tmp_path)
    tests = []
    for fold in range(3):
        made = opened(tmp_path, num_folds=3, fold=fold)
        tests += made.split(made.unread("kfold", ""), "kfold", 0).test.tolist()
    assert sorted(tests) == list(range(NUM_IMAGES))


def test_nothing_here_names_page_folder_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(PadUfes20, "archive_bytes", {"imgs_part_1": 1_245_184_680})
    with pytest.raises(DataMissingError) as error:
        opened(tmp_path / "none").load("group")
    for fact in (
        *("https://data.mendeley.com/datasets/zr7vgbcyr2/1", f"into {tmp_path / 'none'}"),
        *("metadata.csv", "imgs_part_1.zip (1.2 GB)", "--from-dir DIR"),
        *("data fetch pad_ufes_20 --data-root", "data prepare pad_ufes_20 --data-root"),
    ):
        assert fact in str(error.value)


def without_column(name):
    return {"columns": tuple(column for column in COLUMNS if column != name)}


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        (small_rows()[1:], {}, "Expected 52 images; found: 9 of ACK (published: 10)"),
        (
            small_rows(),
            without_column("lesion_id"),
            "26 columns of PAD-UFES-20; found: no lesion_id",
        ),
        (small_rows(), without_column("diagnostic"), "found: no diagnostic"),
        ([{**row, "diagnostic": "XYZ"} for row in small_rows()], {}, "XYZ"),
        ([*small_rows(), small_rows()[0]], {}, "PAT_0_0_900"),
        ([*small_rows()[1:], {**small_rows()[0], "img_id": "PAT_x.png"}], {}, "PAT_x.png"),
    ],
)
def test_other_tables_are_refused(rows, how, said, tmp_path):
    put_table(tmp_path, rows, **how)
    put_extracted(tmp_path)
    with pytest.raises(VerificationError) as error:
        opened(tmp_path).table("group")
    assert "metadata.csv" in str(error.value)
    assert said in str(error.value)


def test_a_missing_picture_is_named(tmp_path):
    put_table(tmp_path)
    put_extracted(tmp_path)
    (tmp_path / "imgs_part_1" / "PAT_0_0_900.png").unlink()
    with pytest.raises(VerificationError, match=r"row 2 \('PAT_0_0_900.png'\)"):
        opened(tmp_path).table("group")


@pytest.mark.parametrize("below", ["", "images"])
def test_archives_are_unpacked_by_fetch(below, bench, tmp_path):
    root = tmp_path / "root"
    put_table(root)
    put_zips(root, below)
    with pytest.raises(
        DataMissingError, match=r"imgs_part_1\.zip.* must be unpacked\. Run: .*fetch"
    ):
        opened(root).table("group")
    done = bench("data", "fetch", "pad_ufes_20", "--data-root", root)
    assert done.code == 0, done.err
    assert "52 images in" in done.out
    assert len(opened(root).table("group")) == NUM_IMAGES
    again = bench("data", "fetch", "pad_ufes_20", "--data-root", root)
    assert (again.code, "52 images in" in again.out) == (0, True)


@pytest.mark.parametrize("below", ["", "images"])
def test_fetch_from_a_folder(below, bench, tmp_path):
    put_table(tmp_path / "hand")
    put_zips(tmp_path / "hand", below)
    fetch = ("data", "fetch", "pad_ufes_20", "--data-root", tmp_path / "root")
    lost = bench(*fetch)
    assert (lost.code, "zr7vgbcyr2" in lost.err) == (3, True)
    assert not (tmp_path / "root").exists()
    taken = bench(*fetch, "--from-dir", tmp_path / "hand")
    assert taken.code == 0, taken.err
    assert len(opened(tmp_path / "root").table("group")) == NUM_IMAGES


def test_fetch_refuses_a_cut_archive_and_an_incomplete_folder(bench, tmp_path):
    put_table(tmp_path / "hand")
    put_zips(tmp_path / "hand")
    archive = tmp_path / "hand" / "imgs_part_2.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    fetch = ("data", "fetch", "pad_ufes_20", "--data-root", tmp_path / "root", "--from-dir")
    cut = bench(*fetch, tmp_path / "hand")
    assert (cut.code, "imgs_part_2.zip" in cut.err) == (4, True)
    archive.unlink()
    lost = bench(*fetch, tmp_path / "hand")
    assert (lost.code, "imgs_part_2.zip" in lost.err) == (3, True)


def test_fetch_from_a_mirror(bench, served, tmp_path):
    folder, url = served
    put_table(folder)
    put_zips(folder)
    fetch = ("data", "fetch", "pad_ufes_20", "--data-root", tmp_path / "root", "--mirror", url)
    assert bench(*fetch).code == 2
    done = bench(*fetch, "--accept-licence")
    assert done.code == 0, done.err
    assert "Licence: CC BY 4.0" in done.out


def test_one_epoch(bench, one_epoch, tmp_path):
    put_table(tmp_path / "root")
    put_extracted(tmp_path / "root")
    where = ("--data-root", tmp_path / "root", "--set", "dataset.squares=[16]")
    unprepared = bench("run", "--method", "ce", "--dataset", "pad_ufes_20", *where)
    assert (unprepared.code, "data prepare pad_ufes_20" in unprepared.err) == (3, True)
    assert bench("data", "prepare", "pad_ufes_20", *where, "--workers", "1").code == 0
    views = ("classify", "eval")
    small = [("--set", f"views.{view}=[{{resize: {{size: 16}}}}]") for view in views]
    one_epoch("pad_ufes_20", *where, *small[0], *small[1])


class TestConformance(DatasetConformance):
    dataset = "pad_ufes_20"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small_copy(cls, tmp_path_factory):
        root = cls.data_root = tmp_path_factory.mktemp("pad")
        cls.settings = {"store": root / "stores", "num_folds": 3, "squares": (16,)}
        put_table(root)
        put_extracted(root)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PadUfes20, "counts", COUNTS)
            opened(root, **cls.settings).prepare(PrepareRequest())
            yield
