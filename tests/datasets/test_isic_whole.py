"""ISIC 2019 from the download to the table, on the small one that tests/small_isic.py draws."""

import functools
import http.server
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import small_isic

from ltbench.data.lists import stored_split
from ltbench.datasets.isic2018 import Isic2018
from ltbench.datasets.isic2019 import Isic2019
from ltbench.errors import DataMissingError, VerificationError
from ltbench.testing import DatasetConformance

TINY = ["--epochs", "1", "--weights", "none", "--batch-size", "16", "--backbone", "test_convnext"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL of a loopback server, folder of the manifest)."""
    folder = tmp_path_factory.mktemp("isic")
    small_isic.write(folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder / "server")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture(scope="module")
def home(served, tmp_path_factory):
    """A data folder with the set fetched and prepared."""
    from ltbench.dataset import FetchRequest, PrepareRequest

    url, folder = served
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("LTBENCH_DATA", str(home))
    made = isic(manifest=folder / "manifest.yaml")
    made.fetch(FetchRequest(accept_licence=True, mirror=url))
    made.prepare(PrepareRequest())
    patch.undo()
    return home


@pytest.fixture
def root(home, monkeypatch):
    """The data folder, as the one of this test."""
    monkeypatch.setenv("LTBENCH_DATA", str(home))
    return home


def isic(root=None, **settings):
    return Isic2019(Isic2019.Config(**settings), root)


def test_the_commands_one_after_the_other(served, tmp_path, monkeypatch, bench):
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    url, folder = served
    missing = bench("run", "--method", "ecl", "--dataset", "isic2019", *TINY)
    assert missing.code == 3
    assert "data fetch isic2019 --accept-licence" in missing.err
    where = ("isic2019", "--mirror", url, "--set", f"dataset.manifest={folder}/manifest.yaml")
    refused = bench("data", "fetch", *where)
    assert refused.code == 2
    assert "CC BY-NC 4.0" in refused.out
    assert not (tmp_path / "home" / "isic2019").exists()
    fetched = bench("data", "fetch", *where, "--accept-licence")
    assert fetched.code == 0
    assert "160 training images" in fetched.out
    unprepared = bench("run", "--method", "ecl", "--dataset", "isic2019", *TINY)
    assert (unprepared.code, "data prepare isic2019" in unprepared.err) == (3, True)
    tables_only = bench("data", "audit", "isic2019", "--protocol", "paper")
    assert tables_only.code == 0
    assert "share a lesion with the training part" in tables_only.out
    assert "unread" in tables_only.out
    assert bench("data", "prepare", "isic2019", "--workers", "1").code == 0
    shown = bench("data", "show", "isic2019")
    assert "stores/isic2019-" in shown.out
    audited = bench("data", "audit", "isic2019", "--json", "--out", tmp_path / "audit.json")
    assert audited.code == 0
    assert json.loads(audited.out)["overlaps"] == []
    ran = bench("run", "--method", "ecl", "--dataset", "isic2019", *TINY)
    assert ran.code == 0, ran.err
    table = bench("table").out
    assert "0 of 32 test images (0.0 %) share a lesion with the training part" in table.replace(
        "\\", ""
    )
    assert "two lesions of one patient can be in two parts" in table
    (file,) = tmp_path.rglob("predictions.npz")
    facts_are_carried(file)
    asked = ("--per-lesion", "--by", "source", "--by", "age", "--prior", "backward:50")
    clinical = bench("eval", file.parent, *asked)
    assert clinical.code == 0, clinical.err
    for text in ("melanoma (MEL) against the rest", "malignant (MEL, BCC, SCC)", "By source"):
        assert text in clinical.out


def facts_are_carried(file):
    with np.load(file) as stored:
        facts = {name.removeprefix("test/metadata/") for name in stored if "test/meta" in name}
        assert facts == {"age", "lesion", "sex", "site", "source"}
        assert set(stored["test/metadata/source"]) <= {"BCN", "HAM", "MSK", ""}
        ids = stored["test/ids"].tolist()
        lesions = dict(zip(ids, stored["test/metadata/lesion"].tolist(), strict=True))
        known = {row["image"]: row["lesion"] for row in small_isic.rows()}
        assert lesions == {name: known[name] for name in ids}


def test_weights_out_of_reach(root, tmp_path, monkeypatch, bench):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ("--method", "ecl", "--dataset", "isic2019", "--results", tmp_path)
    answer = bench("run", *arguments)
    assert answer.code == 3
    assert "--weights none" in answer.err


def test_counts_are_checked(served, tmp_path, bench):
    url, folder = served
    text = (folder / "manifest.yaml").read_text()
    (tmp_path / "m.yaml").write_text(text.replace("NV: 60", "NV: 61"))
    where = ("isic2019", "--mirror", url, "--set", f"dataset.manifest={tmp_path}/m.yaml")
    answer = bench("data", "fetch", *where, "--accept-licence", "--data-root", tmp_path / "d")
    assert answer.code == 4
    assert "'NV': 61" in answer.err
    assert "'NV': 60" in answer.err


def test_a_bad_manifest(tmp_path, bench):
    (tmp_path / "m.yaml").write_text("files: [{name: x}]\n")
    answer = bench(
        *("data", "fetch", "isic2019", "--data-root", tmp_path / "d"),
        *("--set", f"dataset.manifest={tmp_path}/m.yaml"),
    )
    assert (answer.code, "is no manifest" in answer.err) == (2, True)


def test_files_placed_by_hand(served, tmp_path, bench):
    _url, folder = served
    where = ("isic2019", "--set", f"dataset.manifest={folder}/manifest.yaml")
    given = ("--from-dir", folder / "server", "--data-root", tmp_path / "d")
    answer = bench("data", "fetch", *where, *given)
    assert answer.code == 0, answer.err
    assert (tmp_path / "d" / "ISIC_2019_Training_Input").is_dir()


def test_pictures_without_a_label_and_labels_without_a_picture(served, tmp_path, bench):
    _url, folder = served
    where = ("isic2019", "--set", f"dataset.manifest={folder}/manifest.yaml")
    given = ("--data-root", tmp_path / "d")
    bench("data", "fetch", *where, "--from-dir", folder / "server", *given)
    pictures = tmp_path / "d" / "ISIC_2019_Training_Input"
    moved = pictures / "ISIC_0000000.jpg"
    moved.rename(pictures / "ISIC_7777777.jpg")
    answer = bench("data", "prepare", "isic2019", *given, "--workers", "1")
    assert answer.code == 4
    assert "ISIC_7777777.jpg" in answer.err
    (pictures / "ISIC_7777777.jpg").unlink()
    answer = bench("data", "prepare", "isic2019", *given, "--workers", "1")
    assert answer.code == 4
    assert "ISIC_0000000" in answer.err
    answer = bench("data", "prepare", "isic2019", *given, "--workers", "1", "--skip-broken")
    assert answer.code == 0
    assert "left out: ISIC_0000000" in answer.out
    source = isic(tmp_path / "d").load("group")
    assert list(source.notes["left_out"]) == ["ISIC_0000000"]
    assert len(source.ids) == 159


def test_protocols_of_the_paper(root):
    made = isic()
    source = made.load("paper")
    paper, clean, matched = (
        made.split(source, name, 0) for name in ("paper", "paper_clean", "paper_matched")
    )
    rows = {row["image"]: row["class"] for row in small_isic.rows()}
    assert len(paper.train) + len(paper.val) + len(paper.test) == len(rows)
    np.testing.assert_array_equal(paper.test, clean.test)
    tested = set(source.groups[paper.test].tolist())
    assert not tested & set(source.groups[clean.train].tolist())
    assert tested & set(source.groups[matched.train].tolist())
    for one, other in ((clean.train, matched.train), (clean.val, matched.val)):
        np.testing.assert_array_equal(
            np.bincount(source.targets[one]), np.bincount(source.targets[other])
        )
    assert "not the ones" in paper.notes["lists"]  # ours, not the authors'
    by_path = isic(paper_lists=root / "isic2019" / "ecl_splits")
    np.testing.assert_array_equal(by_path.split(source, "paper", 0).test, paper.test)


def test_paper_lists_that_are_not_here(root, tmp_path):
    made = isic(paper_lists=tmp_path)
    with pytest.raises(DataMissingError, match="data fetch isic2019"):
        made.split(made.load("paper"), "paper", 0)


def test_other_lists_are_another_split(root, tmp_path, bench):
    """The paper's lists lie outside the settings that a key holds; their content does not."""
    other = tmp_path / "ecl_splits"
    other.mkdir()
    for name, came in (("train", "train"), ("val", "test"), ("test", "val")):
        text = (root / "isic2019" / "ecl_splits" / f"ISIC2019_{came}.csv").read_text()
        (other / f"ISIC2019_{name}.csv").write_text(text)
    digests = [
        stored_split(made, made.load("paper"), "paper", 0, tmp_path / "splits")[1]
        for made in (isic(), isic(paper_lists=other), isic())
    ]
    assert digests[0] == digests[2] != digests[1]


def test_pictures_left_out_are_left_out_of_the_lists(root):
    made = isic()
    source = made.load("paper")
    whole = made.split(source, "paper", 0)
    kept = np.arange(1, len(source.ids))
    fewer = replace(
        source,
        images=source.images.subset(kept),
        ids=source.ids[kept],
        targets=source.targets[kept],
        groups=source.groups[kept],
        notes={"left_out": {source.ids[0]: "broken"}},
    )
    split = made.split(fewer, "paper", 0)
    sizes = [sum(map(len, (one.train, one.val, one.test))) for one in (whole, split)]
    assert sizes[1] == sizes[0] - 1


def test_the_official_test_set(root):
    made = isic()
    source = made.load("official")
    split = made.split(source, "official", 0)
    assert np.bincount(source.targets[split.test]).tolist() == [2] * 8
    assert source.notes["not_scored"]
    assert not set(source.ids[split.test]) & {row["image"] for row in small_isic.rows()}


def test_pictures_of_the_official_test_change_no_other_protocol(root, served, tmp_path):
    from ltbench.dataset import FetchRequest, PrepareRequest

    _url, folder = served
    alone = isic(tmp_path / "d", manifest=folder / "manifest.yaml")
    alone.fetch(FetchRequest(from_dir=folder / "server"))
    (tmp_path / "d" / "ISIC_2019_Test_GroundTruth.csv").unlink()
    alone.prepare(PrepareRequest())
    assert alone.load("group").images.digest() == isic().load("group").images.digest()
    with pytest.raises(DataMissingError, match="ISIC_2019_Test_GroundTruth"):
        alone.load("official")


def test_train_on_some_sources_test_on_another(root):
    made = isic()
    source = made.load("source")
    split = made.split(source, "source", 0)
    by = source.metadata["source"]
    assert set(by[split.test]) == {"BCN"}
    assert set(by[split.train]) | set(by[split.val]) == {"HAM", "MSK"}
    without = sum(row["lesion"] == "" for row in small_isic.rows())
    assert split.notes["not_used"] == {"unknown origin": without}


def test_classes_of_one_source_only_are_left_out(served, tmp_path):
    from ltbench.dataset import FetchRequest

    _url, folder = served
    made = isic(tmp_path, manifest=folder / "manifest.yaml")
    made.fetch(FetchRequest(from_dir=folder / "server"))
    facts = tmp_path / "ISIC_2019_Training_Metadata.csv"
    vasc = {row["lesion"] for row in small_isic.rows() if row["class"] == "VASC"} - {""}
    text = facts.read_text()
    facts.unlink()
    for lesion in vasc:
        text = text.replace(lesion, lesion.replace("BCN", "HAM"))
    facts.write_text(text)
    table = isic(tmp_path).table("source")
    assert table.class_names == tuple(c for c in small_isic.CLASSES if c != "VASC")
    assert table.notes["classes_of_one_side_only"] == ["VASC"]
    names = {row["image"]: row["class"] for row in small_isic.rows()}
    found = [table.class_names[t] for t in table.targets.tolist()]
    assert found == [names[name] for name in table.ids.tolist()]


def test_a_folder_of_the_authors_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "home"))
    for row in small_isic.rows():
        place = tmp_path / "isic" / row["class"]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row['image']}.jpg").write_bytes(small_isic.jpeg(row))
    made = isic(tmp_path / "isic")
    from ltbench.dataset import PrepareRequest

    made.prepare(PrepareRequest())
    source = made.load("group")
    assert source.groups is None
    assert np.bincount(source.targets).tolist() == list(small_isic.COUNTS.values())


def test_two_pictures_of_one_name(served, tmp_path):
    from ltbench.dataset import FetchRequest

    _url, folder = served
    made = isic(tmp_path, manifest=folder / "manifest.yaml")
    made.fetch(FetchRequest(from_dir=folder / "server"))
    first = tmp_path / "ISIC_2019_Training_Input" / "ISIC_0000000.jpg"
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / first.name).write_bytes(first.read_bytes())
    with pytest.raises(VerificationError, match="ISIC_0000000"):
        isic(tmp_path).table("group")


def test_manifests_know_the_published_counts():
    assert sum(Isic2019.known.counts.values()) == 25_331
    assert sum(Isic2018.known.counts.values()) == 10_015
    for plugin, number in ((Isic2018, 10_015), (Isic2019, 25_331)):
        files = {file.name: file for file in plugin.known.files}
        (pictures,) = (f for n, f in files.items() if "Training_Input" in n)
        assert pictures.num_files == {".jpg": number}
        assert len(pictures.urls) == 2
        lists = [f for n, f in files.items() if n.startswith("ecl_splits/")]
        assert len(lists) == 3
        assert all(one.sha256 and one.optional for one in lists)


class TestConformance(DatasetConformance):
    dataset = "isic2019"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _home(cls, home):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LTBENCH_DATA", str(home))
            yield

    @pytest.fixture(autouse=True)
    def _root(self, root):
        pass


def test_preparing_without_the_pictures(served, tmp_path, bench, monkeypatch):
    _url, folder = served
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "home"))
    where = ("isic2019", "--data-root", tmp_path / "d")
    given = ("--set", f"dataset.manifest={folder}/manifest.yaml", "--from-dir", folder / "server")
    assert bench("data", "fetch", *where, *given).code == 0
    pictures = tmp_path / "d" / "ISIC_2019_Training_Input"
    aside = tmp_path / "aside"
    pictures.rename(aside)
    (tmp_path / "d" / "ISIC_2019_Test_Input").rename(tmp_path / "aside_test")
    nothing = bench("data", "prepare", *where)
    assert (nothing.code, "data fetch isic2019" in nothing.err) == (3, True)
    aside.rename(pictures)
    assert bench("data", "prepare", *where, "--workers", "1").code == 0
    pictures.rename(aside)
    again = bench("data", "prepare", *where)
    assert (again.code, "no longer here, and not needed" in again.out) == (0, True)
    assert bench("data", "audit", *where, "--no-perceptual").code == 0
    official = bench("data", "show", *where, "--protocol", "official")
    assert "data fetch isic2019" in official.out
