import hashlib
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from ltbench.dataset import DATASETS
from ltbench.datasets.dermamnist import DermaMnist
from ltbench.datasets.organamnist import OrganAMnist
from ltbench.datasets.organcmnist import OrganCMnist
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.testing import DatasetConformance

# Of MedMNIST 3.0.2: classes, channels, images, MD5 of 28, 64, 128 and 224 pixels.
RELEASES = {
    "dermamnist": (
        *(7, 3, (7007, 1003, 2005)),
        *("0744692d530f8e62ec473284d019b0c7", "b70a2f5635c6199aeaa28c31d7202e1f"),
        *("2defd784463fa5243564e855ed717de1", "8974907d8e169bef5f5b96bc506ae45d"),
    ),
    "bloodmnist": (
        *(8, 3, (11959, 1712, 3421)),
        *("7053d0359d879ad8a5505303e11de1dc", "2b94928a2ae4916078ca51e05b6b800b"),
        *("adace1e0ed228fccda1f39692059dd4c", "b718ff6835fcbdb22ba9eacccd7b2601"),
    ),
    "pathmnist": (
        *(9, 3, (89996, 10004, 7180)),
        *("a8b06965200029087d5bd730944a56c1", "55aa9c1e0525abe5a6b9d8343a507616"),
        *("ac42d08fb904d92c244187169d1fd1d9", "2c51a510bcdc9cf8ddb2af93af1eadec"),
    ),
    "tissuemnist": (
        *(8, 1, (165466, 23640, 47280)),
        *("ebe78ee8b05294063de985d821c1c34b", "123ece2eba09d0aa5d698fda57103344"),
        *("61b955355d7425a89687b06cca3ce0c2", "b077128c4a949f0a4eb01517f9037b9c"),
    ),
    "organamnist": (
        *(11, 1, (34561, 6491, 17778)),
        *("68e3f8846a6bd62f0c9bf841c0d9eacc", "2dcccc29b88e6da5a01161ef20cda288"),
        *("eeae80d0a227a8d099027e1b3cfd3b60", "50747347e05c87dd3aaf92c49f9f3170"),
    ),
    "organcmnist": (
        *(11, 1, (12975, 2392, 8216)),
        *("b9ceb9546e10131b32923c5bbeaea2b1", "3ce34a8724ea6f548e6db4744d03b6a9"),
        *("773c1f009daa3fe5d9a2a201b2a7ed94", "050f5e875dc056f6768abf94ec9995d1"),
    ),
    "organsmnist": (
        *(11, 1, (13932, 2452, 8827)),
        *("9ab87b696fb54e2a387ebe992d6ed5f1", "53a6d115339d874c25e309a994ff46d3"),
        *("ded0c5fa01a95dc4978b956f613e9b8e", "b354719e553fbbb2513d5533f52a4cb1"),
    ),
}
PARTS = ("train", "val", "test")
SMALL = {"train": 33, "val": 11, "test": 22}


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def small_arrays(plugin, size=28, counts=SMALL):
    release, rng = plugin.release, np.random.default_rng(size)
    shape = (size, size, 3) if release.channels == 3 else (size, size)
    arrays = {}
    for i, (part, count) in enumerate(counts.items()):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        labels = np.arange(i, i + count) % len(release.class_names)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
    return arrays


def put(file, arrays):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)
    return file


def expect(plugin, file, patch, size=28):
    """The file is the official one of this size; of 33, 11 and 22 images."""
    digests = {**plugin.release.md5, size: md5(file)}
    patch.setattr(plugin, "release", replace(plugin.release, counts=SMALL, md5=digests))


def opened(plugin, root=None, **settings):
    return plugin(plugin.Config(**settings), root)


@pytest.mark.parametrize("name", RELEASES)
def test_is_the_release_of_the_specification(name):
    plugin, info = DATASETS[name], DATASETS.info(name)
    num_classes, channels, counts, *digests = RELEASES[name]
    release = plugin.release
    assert len(set(release.class_names)) == num_classes
    assert release.channels == channels
    assert release.counts == dict(zip(PARTS, counts, strict=True))
    assert release.md5 == dict(zip((28, 64, 128, 224), digests, strict=True))
    assert "MedMNIST v2" in info.paper
    assert info.licence == ("CC BY-NC 4.0" if name == "dermamnist" else "CC BY 4.0")
    assert release.licence.startswith(f"{info.licence} (")
    remote = opened(plugin, size=128).remote
    assert remote.urls == (f"https://zenodo.org/records/10519652/files/{name}_128.npz?download=1",)
    assert (remote.name, remote.md5) == (f"{name}_128.npz", digests[2])
    assert opened(plugin).remote.name == f"{name}.npz"


def test_class_names_in_the_official_order():
    assert DermaMnist.release.class_names == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert OrganAMnist.release.class_names[1:6] == (
        *("femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    )
    assert DATASETS["bloodmnist"].release.class_names[6] == "neutrophil"
    assert DATASETS["pathmnist"].release.class_names[7] == "cancer-associated stroma"
    assert DATASETS["tissuemnist"].release.class_names[5] == "Podocytes"


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize("size", [28, 64])
def test_loads_the_official_parts(name, size, tmp_path, monkeypatch):
    plugin = DATASETS[name]
    arrays = small_arrays(plugin, size)
    suffix = "" if size == 28 else f"_{size}"
    expect(plugin, put(tmp_path / f"{name}{suffix}.npz", arrays), monkeypatch, size)
    made = opened(plugin, tmp_path, size=size)
    source = made.load("official")
    assert source.images.shape == (plugin.release.channels, size, size)
    assert source.partition.tolist() == ["train"] * 33 + ["val"] * 11 + ["test"] * 22
    assert source.ids[[0, 33, 65]].tolist() == [
        *(f"{name}-train-000000", f"{name}-val-000000", f"{name}-test-000021")
    ]
    assert source.targets[33:44].tolist() == arrays["val_labels"][:, 0].tolist()
    picture = arrays["test_images"][21].reshape(size, size, -1)
    np.testing.assert_array_equal(source.images.picture(65), picture)
    assert source.groups is None
    assert source.groups_note.startswith("The file names no groups")
    split = made.split(source, "official", 3)
    assert [len(part) for part in (split.train, split.val, split.test)] == [33, 11, 22]
    np.testing.assert_array_equal(split.test, np.arange(44, 66))


def test_default_folder_is_one_for_all_sets(data_folder, monkeypatch):
    for plugin in (OrganAMnist, OrganCMnist):
        file = put(data_folder / "medmnist" / f"{plugin.info.name}.npz", small_arrays(plugin))
        expect(plugin, file, monkeypatch)
        assert len(opened(plugin).load("official").images) == 66


def test_a_size_that_there_is_not():
    with pytest.raises(ValidationError, match="28, 64, 128 or 224"):
        DermaMnist.Config(size=32)


def test_a_missing_file_is_named_with_its_url(tmp_path):
    with pytest.raises(DataMissingError) as error:
        opened(OrganAMnist, tmp_path, size=224).load("official")
    message = str(error.value)
    assert f"expected organamnist_224.npz in {tmp_path}" in message
    assert "data fetch organamnist --set dataset.size=224 --data-root" in message
    assert "https://zenodo.org/records/10519652/files/organamnist_224.npz" in message


def test_another_digest_is_refused(tmp_path, monkeypatch):
    file = put(tmp_path / "organcmnist.npz", small_arrays(OrganCMnist))
    expect(OrganCMnist, file, monkeypatch)
    official = md5(file)
    put(file, {**small_arrays(OrganCMnist), "more": np.zeros(1)})
    with pytest.raises(VerificationError) as error:
        opened(OrganCMnist, tmp_path).load("official")
    for fact in (str(file), official, md5(file), "Move it away and get it anew: python bench.py"):
        assert fact in str(error.value)


def without(key):
    return lambda arrays: {name: array for name, array in arrays.items() if name != key}


def changed(key, change):
    return lambda arrays: {**arrays, key: change(arrays[key])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda arrays: {name: array[1:] for name, array in arrays.items()},
            "Expected 33 train images, 11 val images, 22 test images; found: 32 train images",
        ),
        (lambda a: without("val_images")(without("val_labels")(a)), "found: 33 train images, 22"),
        (without("test_labels"), "no 'test_labels'"),
        (changed("val_labels", lambda labels: labels[:-1]), "11 and 10"),
        (
            changed("train_labels", lambda labels: np.vstack([[[11]], labels[1:]])),
            "labels from 0 to 10",
        ),
        (changed("test_labels", lambda labels: labels * 0 + 12), "class from 0 to 12"),
        (lambda a: {k: v % 10 if "labels" in k else v for k, v in a.items()}, "to 9 alone"),
        (
            lambda a: {k: v[:, :14, :14] if "images" in k else v for k, v in a.items()},
            "(1, 28, 28), by dataset.size; found: (1, 14, 14)",
        ),
        (
            lambda a: {k: np.stack([v] * 3, -1) if "images" in k else v for k, v in a.items()},
            "(1, 28, 28), by dataset.size; found: (3, 28, 28)",
        ),
        (changed("train_images", lambda images: images.astype(np.float32)), "float32"),
        (changed("train_labels", lambda labels: labels.astype(object)), "never unpickled"),
    ],
)
def test_other_contents_are_refused(change, said, tmp_path, monkeypatch):
    file = put(tmp_path / "organamnist.npz", change(small_arrays(OrganAMnist)))
    expect(OrganAMnist, file, monkeypatch)
    with pytest.raises(VerificationError) as error:
        opened(OrganAMnist, tmp_path).load("official")
    assert str(file) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("keep", [0, 30, 9000])
def test_a_cut_file_with_the_right_digest(keep, tmp_path, monkeypatch):
    file = put(tmp_path / "dermamnist.npz", small_arrays(DermaMnist))
    file.write_bytes(file.read_bytes()[:keep])
    expect(DermaMnist, file, monkeypatch)
    with pytest.raises(VerificationError, match=r"dermamnist\.npz: expected an npz file"):
        opened(DermaMnist, tmp_path).load("official")


def test_fetch_over_the_network(served, bench, tmp_path, monkeypatch):
    folder, url = served
    file = put(folder / "dermamnist_64.npz", small_arrays(DermaMnist, 64))
    expect(DermaMnist, file, monkeypatch, 64)
    root = tmp_path / "root"
    fetch = ("data", "fetch", "dermamnist", "--set", "dataset.size=64", "--mirror", url)
    fetch = (*fetch, "--data-root", root)
    refused = bench(*fetch)
    assert (refused.code, root.exists()) == (2, False)
    assert "Licence: CC BY-NC 4.0" in refused.out
    assert "HAM10000" in refused.out
    done = bench(*fetch, "--accept-licence")
    assert done.code == 0, done.err
    assert "66 images are ready" in done.out
    assert [one.name for one in root.iterdir()] == ["dermamnist_64.npz"]
    file.unlink()
    assert "already" in bench(*fetch).out
    put(folder / "dermamnist.npz", small_arrays(DermaMnist))
    wrong = bench(
        "data", "fetch", "dermamnist", "--mirror", url, "--data-root", root, "--accept-licence"
    )
    assert (wrong.code, RELEASES["dermamnist"][3] in wrong.err) == (4, True)


def test_fetch_from_a_folder(bench, tmp_path, monkeypatch):
    expect(
        OrganAMnist, put(tmp_path / "hand/organamnist.npz", small_arrays(OrganAMnist)), monkeypatch
    )
    fetch = ("data", "fetch", "organamnist", "--data-root", tmp_path / "root", "--from-dir")
    assert bench(*fetch, tmp_path / "hand").code == 0
    assert (tmp_path / "root" / "organamnist.npz").is_file()
    (tmp_path / "root" / "organamnist.npz").unlink()
    lost = bench(*fetch, tmp_path)
    assert (lost.code, "organamnist.npz" in lost.err) == (3, True)


CORRECTED = {"train": 40, "val": 7, "test": 14}


@pytest.fixture
def corrected(tmp_path, monkeypatch):
    """corrected(name, size=28): a made file of a corrected version, of 40, 7 and 14 images."""

    def make(name="mine.npz", size=28, protocol="corrected", counts=CORRECTED):
        small = {
            name: replace(one, counts=CORRECTED) for name, one in DermaMnist.corrections.items()
        }
        monkeypatch.setattr(DermaMnist, "corrections", small)
        return put(tmp_path / name, small_arrays(DermaMnist, size, counts))

    return make


def test_corrected_versions_of_the_specification():
    found = {
        name: (*one.counts.values(), one.md5[28], one.md5[224])
        for name, one in DermaMnist.corrections.items()
    }
    assert found == {
        "corrected": (
            *(8215, 573, 1227),
            *("96e2862980877d45d9cacb5c25de6950", "84920fb70c83b234c295b6f0d4ae2bc0"),
        ),
        "extended": (
            *(10015, 193, 1511),
            *("ecacbf37d9cc79340226bd19bd4c7463", "b59d6a78a036a0bb48a1eff13d94333c"),
        ),
    }
    assert set(DermaMnist.protocols) == {"official", "corrected", "extended"}


@pytest.mark.parametrize("protocol", ["corrected", "extended"])
def test_a_corrected_file_by_its_path(protocol, corrected, tmp_path):
    file = corrected(protocol=protocol)
    made = opened(DermaMnist, tmp_path / "elsewhere", file=file)
    source = made.load(protocol)
    split = made.split(source, protocol, 0)
    assert [len(part) for part in (split.train, split.val, split.test)] == [40, 7, 14]
    assert source.ids[0] == f"dermamnist_{protocol}-train-000000"
    assert source.notes["file"] == f"mine.npz, MD5 {md5(file)}, not that of a known release"
    assert "known_leak" not in split.notes
    assert "778 of" not in source.groups_note
    assert opened(DermaMnist, file=file).config.identity() == {"size": 28}


def test_a_corrected_file_in_the_data_root_and_known(corrected, tmp_path, monkeypatch):
    file = corrected("dermamnist_extended_224.npz", 224)
    known = replace(DermaMnist.corrections["extended"], md5={224: md5(file)})
    monkeypatch.setattr(DermaMnist, "corrections", {"extended": known})
    source = opened(DermaMnist, tmp_path, size=224).load("extended")
    assert source.notes["file"] == f"dermamnist_extended_224.npz, MD5 {md5(file)}, known"
    assert source.images.shape == (3, 224, 224)


def test_corrected_files_that_are_not_here_or_others(corrected, tmp_path):
    with pytest.raises(DataMissingError) as error:
        opened(DermaMnist, tmp_path).load("corrected")
    for fact in ("dermamnist_corrected_28.npz", "zenodo.org/records/12739457", "dataset.file=FILE"):
        assert fact in str(error.value)
    file = corrected(counts={**CORRECTED, "val": 8})
    with pytest.raises(VerificationError, match="Expected 40 train images, 7 val images"):
        opened(DermaMnist, file=file).load("corrected")
    with pytest.raises(VerificationError, match=r"by dataset\.size; found: \(3, 28, 28\)"):
        opened(DermaMnist, file=corrected(), size=64).load("corrected")
    with pytest.raises(UsageError, match="--protocol corrected"):
        opened(DermaMnist, file=file).load("official")


def test_the_known_leak_is_said(tmp_path, monkeypatch):
    expect(DermaMnist, put(tmp_path / "dermamnist.npz", small_arrays(DermaMnist)), monkeypatch)
    made = opened(DermaMnist, tmp_path)
    source = made.load("official")
    assert "778 of 2005 test images (38.8 %)" in source.groups_note
    assert "38.8 %" in made.split(source, "official", 0).notes["known_leak"]
    assert DermaMnist.leaky == {"official"}


def test_flips_are_for_pictures_without_a_left_and_a_right():
    recipes = {name: DATASETS[name].default_recipe for name in RELEASES}
    organs = {name for name, recipe in recipes.items() if recipe == "medmnist_organs"}
    assert organs == {
        name for name in RELEASES if "femur-left" in DATASETS[name].release.class_names
    }
    assert set(recipes.values()) == {"medmnist", "medmnist_organs"}


@pytest.mark.parametrize("name", ["dermamnist", "organsmnist"])
def test_one_epoch(name, one_epoch, tmp_path, monkeypatch):
    plugin = DATASETS[name]
    expect(plugin, put(tmp_path / "root" / f"{name}.npz", small_arrays(plugin)), monkeypatch)
    one_epoch(name, "--data-root", tmp_path / "root")


def test_one_epoch_of_a_corrected_file(corrected, one_epoch):
    one_epoch("dermamnist", "--protocol", "corrected", "--set", f"dataset.file={corrected()}")


class Conformance(DatasetConformance):
    without = frozenset({"corrected", "extended"})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small_file(cls, tmp_path_factory):
        cls.data_root = tmp_path_factory.mktemp(cls.dataset)
        plugin = DATASETS[cls.dataset]
        with pytest.MonkeyPatch.context() as patch:
            expect(plugin, put(cls.data_root / f"{cls.dataset}.npz", small_arrays(plugin)), patch)
            yield


class TestDerma(Conformance):
    dataset = "dermamnist"


class TestBlood(Conformance):
    dataset = "bloodmnist"


class TestPath(Conformance):
    dataset = "pathmnist"


class TestTissue(Conformance):
    dataset = "tissuemnist"


class TestOrganA(Conformance):
    dataset = "organamnist"


class TestOrganC(Conformance):
    dataset = "organcmnist"


class TestOrganS(Conformance):
    dataset = "organsmnist"
