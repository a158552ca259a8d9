import hashlib
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ltbench.dataset import DATASETS, PrepareRequest
from ltbench.datasets._listed import names_by_folder
from ltbench.datasets.imagenet_lt import ImageNetLT
from ltbench.datasets.inaturalist2018 import INaturalist2018
from ltbench.datasets.places_lt import PlacesLT
from ltbench.errors import DataMissingError, VerificationError
from ltbench.intake.table import ImageTable
from ltbench.testing import DatasetConformance

SETS = [ImageNetLT, PlacesLT, INaturalist2018]
TRAIN = [8, 5, 3]  # images of each class


def paths_of(plugin, part, label, i):
    """A path as the published lists of this set have them."""
    if plugin is INaturalist2018:
        return f"train_val2018/Plantae/{label}/{part}{i:08x}.jpg"
    if plugin is PlacesLT:
        return f"{'val' if part == 'test' else 'train'}/place-{label}/{part}{i:08d}.jpg"
    if part == "test":
        return f"val/n0{label}/ILSVRC2012_val_{label}{i:07d}.JPEG"
    return f"train/n0{label}/n0{label}_{part}{i}.JPEG"


def small_lists(plugin):
    """(path, label) of each line, by part."""
    counts = {part: TRAIN if part == "train" else [2, 2, 2] for part in plugin.lists.files}
    return {
        part: [(paths_of(plugin, part, c, i), c) for c, n in enumerate(some) for i in range(n)]
        for part, some in counts.items()
    }


def write_lists(folder, plugin, lists):
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in lists.items():
        text = "".join(f"{path} {label}\n" for path, label in lines)
        (folder / plugin.lists.files[part]).write_text(text)


def write_pictures(root, lists):
    rng = np.random.default_rng(0)
    for path, _ in (line for lines in lists.values() for line in lines):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, quality=90)


def expect_small(plugin, patch, **changes):
    lists = small_lists(plugin)
    counts = {part: len(lists[part]) for part in plugin.lists.counts}
    recalled = {part: len(lists[part]) for part in plugin.lists.recalled}
    facts = {"counts": counts, "recalled": recalled, "num_classes": 3, **changes}
    patch.setattr(plugin, "lists", replace(plugin.lists, **facts))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """small(plugin): the root of a small copy, which is the expected one."""

    def make(plugin, **changes):
        expect_small(plugin, monkeypatch, **changes)
        write_lists(tmp_path / "root" / "lists", plugin, small_lists(plugin))
        write_pictures(tmp_path / "root", small_lists(plugin))
        return tmp_path / "root"

    return make


def opened(plugin, root=None, **settings):
    return plugin(plugin.Config(**settings), root)


def test_counts_of_the_specification():
    found = {
        plugin.info.name: (plugin.lists.num_classes, plugin.lists.counts, plugin.lists.recalled)
        for plugin in SETS
    }
    assert found == {
        "imagenet_lt": (1000, {"val": 20_000, "test": 50_000}, {"train": 115_846}),
        "places_lt": (365, {"train": 62_500, "val": 7300, "test": 36_500}, {}),
        "inaturalist2018": (8142, {"test": 24_426}, {"train": 437_513}),
    }
    assert ImageNetLT.lists.files["val"] == "ImageNet_LT_val.txt"
    assert PlacesLT.lists.files["test"] == "Places_LT_test.txt"
    assert INaturalist2018.lists.files == {
        "train": "iNaturalist18_train.txt",
        "test": "iNaturalist18_val.txt",
    }
    assert INaturalist2018.archive.md5 == "b1c6952ce38f31868cc50ea72d066cc3"
    for plugin in SETS:
        assert DATASETS[plugin.info.name] is plugin
        assert opened(plugin).config.identity() == {"short_side": 256, "squares": []}


NAMES = {
    "imagenet_lt": ("n00", "n01", "n02"),
    "places_lt": ("place-0", "place-1", "place-2"),
    "inaturalist2018": ("Plantae/0", "Plantae/1", "Plantae/2"),
}


@pytest.mark.parametrize("plugin", SETS)
def test_reads_the_published_layout(plugin, small):
    root = small(plugin)
    made = opened(plugin, root)
    table = made.table("published")
    lists = small_lists(plugin)
    assert table.ids.tolist() == [path for lines in lists.values() for path, _ in lines]
    assert table.targets.tolist() == [label for lines in lists.values() for _, label in lines]
    assert table.class_names == NAMES[plugin.info.name]
    assert table.files[0] == root / lists["train"][0][0]
    split = made.split(made.unread("published", ""), "published", 0)
    assert split.notes["counts"]["train"] == TRAIN
    assert split.notes["counts"]["test"] == [2, 2, 2]
    assert "lines_train" not in table.notes
    if plugin is INaturalist2018:
        assert split.val is None
        assert "last epoch" in split.notes["validation"]
    else:
        assert split.notes["counts"]["val"] == [2, 2, 2]


def test_lists_of_another_folder_and_the_default_root(small, tmp_path, data_folder):
    root = small(PlacesLT)
    (root / "lists").rename(tmp_path / "mine")
    with pytest.raises(DataMissingError) as error:
        opened(PlacesLT, root).table("published")
    for fact in (
        f"lists in {root}/lists",
        "Places_LT_val.txt",
        "classifier-balancing",
        "lists=DIR",
    ):
        assert fact in str(error.value)
    assert len(opened(PlacesLT, root, lists=tmp_path / "mine").table("published")) == 28
    data_folder.mkdir()
    root.rename(data_folder / "places_lt")
    assert len(opened(PlacesLT, lists=tmp_path / "mine").table("published")) == 28


def test_other_counts_are_refused_and_recalled_ones_are_said(small):
    counts = {"val": 7, "test": 8}
    made = opened(ImageNetLT, small(ImageNetLT, counts=counts, num_classes=4))
    with pytest.raises(VerificationError) as error:
        made.table("published")
    for fact in (
        *("6 in ImageNet_LT_val.txt (published: 7)", "6 in ImageNet_LT_test.txt (published: 8)"),
        *("Expected 4 classes; found: 3", "not the published lists"),
    ):
        assert fact in str(error.value)
    made = opened(ImageNetLT, small(ImageNetLT, recalled={"train": 99}))
    assert made.table("published").notes["lines_train"].startswith("16; 99 are said")


def test_missing_pictures_are_named_with_file_and_line(small):
    root = small(PlacesLT)
    for path, _ in small_lists(PlacesLT)["val"][:2]:
        (root / path).unlink()
    with pytest.raises(VerificationError) as error:
        opened(PlacesLT, root).table("published")
    assert "Places_LT_val.txt line 2 ('train/place-0/val00000001.jpg')" in str(error.value)


@pytest.mark.parametrize("line", ["train/place-0/x.jpg", "train/place-0/x.jpg, 0", "a 0\nb -1"])
def test_a_damaged_list(line, small):
    root = small(PlacesLT)
    list_file = root / "lists" / "Places_LT_val.txt"
    list_file.write_text(list_file.read_text() + line)
    with pytest.raises(VerificationError, match="Places_LT_val"):
        opened(PlacesLT, root).table("published")


def test_a_label_out_of_range(small):
    root = small(PlacesLT)
    list_file = root / "lists" / "Places_LT_test.txt"
    list_file.write_text(list_file.read_text().replace(" 2\n", " 3\n"))
    with pytest.raises(VerificationError, match="training image of every class"):
        opened(PlacesLT, root).table("published")


def test_unsorted_validation_images_of_imagenet(small):
    root = small(ImageNetLT)
    for file in list((root / "val").glob("*/*")):
        file.rename(root / "val" / file.name)
    with pytest.raises(DataMissingError) as error:
        opened(ImageNetLT, root).load("published")
    for fact in ("val/<wnid>/ILSVRC2012_val_", "Sort them", "ImageNet_LT_test.txt"):
        assert fact in str(error.value)


@pytest.mark.parametrize("plugin", SETS)
def test_nothing_here(plugin, tmp_path):
    with pytest.raises(DataMissingError) as error:
        opened(plugin, tmp_path / "none").load("published")
    message = str(error.value)
    assert str(tmp_path / "none") in message
    for name in plugin.lists.files.values():
        assert f"lists/{name}" in message
    facts = {
        ImageNetLT: ("behind a login", "image-net.org", "data prepare imagenet_lt --data-root"),
        PlacesLT: ("places2.csail.mit.edu", "easyformat", "data prepare places_lt --data-root"),
        INaturalist2018: ("data fetch inaturalist2018 --data-root", "about 120 GB"),
    }
    for fact in facts[plugin]:
        assert fact in message


@pytest.mark.parametrize("plugin", [ImageNetLT, PlacesLT])
def test_fetch_says_what_a_person_must_do(plugin, small, bench, tmp_path):
    name = plugin.info.name
    answer = bench("data", "fetch", name, "--data-root", tmp_path / "x", "--accept-licence")
    assert (answer.code, "1. Visit http" in answer.err) == (3, True)
    assert not (tmp_path / "x").exists()
    here = bench("data", "fetch", name, "--data-root", small(plugin))
    assert (here.code, "already: 28 pictures" in here.out) == (0, True)


def test_fetch_of_inaturalist(small, served, bench, tmp_path, monkeypatch):
    root = small(INaturalist2018)
    folder, url = served
    with tarfile.open(folder / "train_val2018.tar.gz", "w:gz") as tar:
        tar.add(root / "train_val2018", "train_val2018")
    data = (folder / "train_val2018.tar.gz").read_bytes()
    archive = replace(INaturalist2018.archive, md5=hashlib.md5(data).hexdigest(), about_bytes=9999)
    monkeypatch.setattr(INaturalist2018, "archive", archive)
    fetch = ("data", "fetch", "inaturalist2018", "--mirror", url, "--accept-licence", "--data-root")
    lacking = bench(*fetch, tmp_path / "new")
    assert (lacking.code, "iNaturalist18_train.txt" in lacking.err) == (3, True)
    assert not (tmp_path / "new").exists()  # before anything large is downloaded
    (tmp_path / "new").mkdir()
    (root / "lists").rename(tmp_path / "new" / "lists")
    done = bench(*fetch, tmp_path / "new")
    assert done.code == 0, done.err
    assert "already: 22 pictures" in done.out
    (folder / "train_val2018.tar.gz").write_bytes(data[:-5] + b"xxxxx")
    (tmp_path / "other").mkdir()
    (tmp_path / "new" / "lists").rename(tmp_path / "other" / "lists")
    wrong = bench(*fetch, tmp_path / "other")
    assert (wrong.code, archive.md5 in wrong.err) == (4, True)


def table_of(*paths):
    count = len(paths)
    return ImageTable(
        ids=np.array(paths),
        files=(),
        targets=np.arange(count) // 2,
        class_names=tuple("ab")[: count // 2],
        partition=np.array(["train"] * count),
    )


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("t/n0/1.jpg", "t/n0/2.jpg", "t/n1/1.jpg", "t/n1/2.jpg"), ("n0", "n1")),
        (("d/a/air/1", "d/a/air/2", "d/b/bazaar/in/1", "d/b/bazaar/in/2"), ("air", "bazaar/in")),
        (("t/n0/1.jpg", "t/n1/2.jpg", "t/n1/1.jpg", "t/n1/2.jpg"), ("0", "1")),
        (("t/n0/1.jpg", "t/n0/2.jpg", "t/n0/3.jpg", "t/n0/4.jpg"), ("0", "1")),
        (("n0/1.jpg", "n0/2.jpg", "n1/1.jpg", "n1/2.jpg"), ("0", "1")),
        (("1.jpg", "2.jpg", "3.jpg", "4.jpg"), ("0", "1")),
    ],
)
def test_names_by_folder(paths, names):
    assert names_by_folder(table_of(*paths)) == names


def test_names_come_from_training_images():
    table = table_of("t/n0/1.jpg", "v/flat/2.jpg", "t/n1/1.jpg", "t/n1/2.jpg")
    partition = np.array(["train", "test", "train", "train"])
    assert names_by_folder(replace(table, partition=partition)) == ("n0", "n1")


@pytest.mark.parametrize("plugin", SETS)
def test_one_epoch(plugin, small, bench, one_epoch):
    root = small(plugin)
    assert (
        bench("data", "prepare", plugin.info.name, "--data-root", root, "--workers", "1").code == 0
    )
    views = "[{resize: {size: 12}}, {hflip: {p: 0.5}}]"
    one_epoch(
        *(plugin.info.name, "--data-root", root, "--set", f"views.classify={views}"),
        *("--set", "views.eval=[{resize: {size: 12}}]"),
    )


class Conformance(DatasetConformance):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small_copy(cls, tmp_path_factory):
        root = cls.data_root = tmp_path_factory.mktemp(cls.dataset)
        plugin = DATASETS[cls.dataset]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LTBENCH_DATA", str(root / "home"))
            expect_small(plugin, patch)
            write_lists(root / "lists", plugin, small_lists(plugin))
            write_pictures(root, small_lists(plugin))
            cls.settings = {"store": root / "stores"}
            opened(plugin, root, store=root / "stores").prepare(PrepareRequest())
            yield


class TestImageNet(Conformance):
    dataset = "imagenet_lt"


class TestPlaces(Conformance):
    dataset = "places_lt"


class TestINaturalist(Conformance):
    dataset = "inaturalist2018"
