import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torchvision.datasets
from pydantic import ValidationError

from ltbench.data.images import UnreadImages
from ltbench.dataset import DATASETS, Source
from ltbench.datasets import _cifar_files
from ltbench.datasets._cifar import authors_subset
from ltbench.datasets._cifar_files import unpickled
from ltbench.datasets.cifar10_lt import Cifar10LT
from ltbench.datasets.cifar100_lt import Cifar100LT
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.testing import DatasetConformance

NUM_IMAGES = {"train": 20, "test": 3}
BOTH = [Cifar10LT, Cifar100LT]
GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "cifar_lt_counts.json").read_text("utf-8")
)


def python2(value):
    """As Python 2 pickled it, which is what the official files are."""
    if isinstance(value, dict):
        return b"}" + b"".join(python2(k) + python2(v) + b"s" for k, v in value.items())
    if isinstance(value, list):
        return b"]" + b"".join(python2(v) + b"a" for v in value)
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<I", len(text)) + text
    kind, one = value.dtype.str[1:], b"cnumpy\nndarray\n"
    made = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + one + b"(J\0\0\0\0t" + python2("b") + b"\x87R"
    )
    dtype = b"cnumpy\ndtype\n(" + python2(kind) + b"K\x00K\x01tR"
    dtype += b"(K\x03" + python2("|") + b"NNN" + 2 * python2(-1) + b"K\x00tb"
    shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
    return made + b"(K\x01" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"


def pickled(value):
    return b"\x80\x02" + python2(value) + b"."


def num_classes(plugin):
    return 10 if plugin is Cifar10LT else 100


def small_values(plugin):
    """What each file holds: 20 training and 3 test images of every class."""
    release, count = plugin.release, num_classes(plugin)
    rng = np.random.default_rng(0)
    values = {release.meta: {release.names: [f"class {c:02d}" for c in range(count)]}}
    members = {"train": release.train, "test": (release.test,)}
    for part, names in members.items():
        labels = rng.permutation(np.repeat(np.arange(count), NUM_IMAGES[part]))
        for name, some in zip(names, np.array_split(labels, len(names)), strict=True):
            pixels = rng.integers(0, 256, (len(some), 3072)).astype(np.uint8)
            texts = {"batch_label": name, "filenames": [f"{i}.png" for i in range(len(some))]}
            values[name] = {**texts, release.labels: some.tolist(), "data": pixels}
    return values


def archive_of(release, files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in {"readme.html": b"<p>", **files}.items():
            info = tarfile.TarInfo(f"{release.folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def md5(data):
    return hashlib.md5(data).hexdigest()


def made_official(plugin, values, patch):
    """Files with these values are the expected ones; (files, archive)."""
    files = {name: pickled(value) for name, value in values.items()}
    archive = archive_of(plugin.release, files)
    small = replace(
        plugin.release,
        num_images=NUM_IMAGES,
        archive_md5=md5(archive),
        about_bytes=len(archive),
        md5={name: md5(files[name]) for name in plugin.release.md5},
    )
    patch.setattr(plugin, "release", small)
    return files, archive


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def official(monkeypatch):
    """official(plugin, {file: changed values}): (files, archive) that are the expected ones."""
    return lambda plugin, changes=None: made_official(
        plugin, {**small_values(plugin), **(changes or {})}, monkeypatch
    )


def opened(plugin, root=None, **settings):
    return plugin(plugin.Config(**{"imbalance": 4, **settings}), root)


@pytest.mark.parametrize("plugin", BOTH)
def test_is_registered_with_the_official_digests(plugin):
    name = f"cifar{num_classes(plugin)}_lt"
    assert DATASETS[name] is plugin
    info, release = DATASETS.info(name), plugin.release
    assert "Krizhevsky" in info.paper
    assert "Cao" in info.paper
    theirs = getattr(torchvision.datasets, f"CIFAR{num_classes(plugin)}")
    assert release.archive == theirs.filename
    assert release.archive_md5 == theirs.tgz_md5
    assert release.folder == theirs.base_folder
    assert release.md5 == {
        **dict(theirs.train_list + theirs.test_list),
        theirs.meta["filename"]: theirs.meta["md5"],
    }
    assert list(release.train) == [name for name, _ in theirs.train_list]
    assert release.test == theirs.test_list[0][0]
    assert release.names == theirs.meta["key"]


def test_archives_of_the_specification():
    assert Cifar10LT.release.archive_md5 == "c58f30108f718f92721af3b95e74349a"
    assert Cifar10LT.release.about_bytes == 170_498_071
    assert Cifar100LT.release.archive_md5 == "eb9058c3a382ffc7106e4002c42a8d85"


def full_source(count):
    """All labels, no picture."""
    sizes = {"train": 50_000, "test": 10_000}
    rng = np.random.default_rng(1)
    targets = [rng.permutation(np.arange(n) % count) for n in sizes.values()]
    return Source(
        images=UnreadImages(60_000, "no pictures here"),
        ids=np.array([f"image-{i}" for i in range(60_000)]),
        targets=np.concatenate(targets),
        class_names=tuple(f"class {c}" for c in range(count)),
        partition=np.repeat(list(sizes), list(sizes.values())),
    )


@pytest.mark.parametrize(
    ("imbalance", "total_10", "last_10", "total_100", "last_100", "step_10", "step_100"),
    [
        (10, 20431, 500, 19573, 50, 27500, 27500),
        (20, 17023, 250, 15907, 25, 26250, 26250),
        (50, 13996, 100, 12608, 10, 25500, 25500),
        (100, 12406, 50, 10847, 5, 25250, 25250),
        (200, 11203, 25, 9502, 2, 25125, 25100),
    ],
)
def test_published_counts(imbalance, total_10, last_10, total_100, last_100, step_10, step_100):
    expected = {
        (Cifar10LT, "exponential"): (total_10, last_10),
        (Cifar100LT, "exponential"): (total_100, last_100),
        (Cifar10LT, "step"): (step_10, last_10),
        (Cifar100LT, "step"): (step_100, last_100),
    }
    for (plugin, profile), (total, last) in expected.items():
        source = full_source(num_classes(plugin))
        made = opened(plugin, imbalance=imbalance, profile=profile)
        split = made.split(source, "published", 0)
        counts = split.notes["counts"]["train"]
        assert (len(split.train), sum(counts), min(counts)) == (total, total, last)
        assert counts[0] == 50_000 // num_classes(plugin)
        assert split.val is None
        assert split.test.tolist() == list(range(50_000, 60_000))


def test_published_counts_are_those_of_the_authors_code():
    pairs = zip(GOLDEN["inputs"]["settings"], GOLDEN["outputs"]["counts"], strict=True)
    for settings, counts in pairs:
        plugin = Cifar10LT if settings["dataset"] == "cifar10" else Cifar100LT
        made = opened(
            plugin,
            imbalance=1 / settings["imb_factor"],
            profile={"exp": "exponential", "step": "step"}[settings["imb_type"]],
        )
        source = full_source(num_classes(plugin))
        assert made.split(source, "published", 0).notes["counts"]["train"] == counts


def theirs(targets, counts, rand_number):
    np.random.seed(rand_number)  # noqa: NPY002
    chosen = []
    for the_class, the_img_num in zip(np.unique(targets), counts, strict=True):
        idx = np.where(targets == the_class)[0]
        np.random.shuffle(idx)  # noqa: NPY002
        chosen.extend(idx[:the_img_num])
    return sorted(chosen)


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_the_subset_is_that_of_the_authors_code(seed):
    targets = np.random.default_rng(3).integers(0, 10, 2000)
    counts = [100, 80, 60, 40, 30, 20, 10, 5, 2, 1]
    found = authors_subset(targets, counts, seed)
    assert found.tolist() == theirs(targets, counts, seed)
    assert found.dtype == np.int64


def test_the_subset_never_changes():
    found = authors_subset(np.arange(50_000) % 10, GOLDEN["outputs"]["counts"][1], 0)
    assert found[:8].tolist() == [0, 3, 10, 14, 20, 30, 31, 40]
    assert md5(found.astype("<i8").tobytes()) == "fb5b19f89223188f07ed91802c2ecd28"


def test_split_seeds_of_published(official, tmp_path):
    files, _ = official(Cifar10LT)
    put(tmp_path, files)
    made = opened(Cifar10LT, tmp_path)
    source = made.load("published")
    first, again, other = (made.split(source, "published", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    assert first.train.tolist() != other.train.tolist()
    assert first.notes["lists"] == "of LDAM-DRW, rand_number 0"
    assert "1 in place of rand_number 0" in other.notes["lists"]
    with pytest.raises(UsageError, match="below 2\\*\\*32, got 4294967296"):
        made.split(source, "published", 2**32)


@pytest.mark.parametrize("plugin", BOTH)
@pytest.mark.parametrize("place", ["folder", "above", "archive", "archive itself", "default"])
def test_finds_the_files(plugin, place, official, tmp_path, data_folder):
    files, archive = official(plugin)
    release, root = plugin.release, tmp_path / "root"
    match place:
        case "folder":
            put(root, files)
        case "above":
            put(root / release.folder, files)
        case "default":
            put(data_folder / plugin.info.name / release.folder, files)
            root = None
        case _:
            put(root, {release.archive: archive})
            root = root / release.archive if place == "archive itself" else root
    source = opened(plugin, root).load("held_out")
    count = num_classes(plugin)
    assert source.images.shape == (3, 32, 32)
    assert source.partition.tolist() == ["train"] * 20 * count + ["test"] * 3 * count
    short = f"cifar{count}"
    assert source.ids[[0, 20 * count]].tolist() == [f"{short}-train-00000", f"{short}-test-00000"]
    assert source.class_names[7] == "class 07"
    values = small_values(plugin)
    last = values[release.train[-1]]
    at = 20 * count - 1
    assert source.targets[at] == last[release.labels][-1]
    planes = last["data"][-1].reshape(3, 32, 32)
    np.testing.assert_array_equal(source.images.picture(at), planes.transpose(1, 2, 0))
    assert ("3.3 %" if plugin is Cifar10LT else " 10 %") in source.groups_note


def test_unpacked_files_go_before_an_archive(official, tmp_path):
    files, _ = official(Cifar10LT)
    put(tmp_path, {Cifar10LT.release.archive: b"half a download"})
    put(tmp_path / Cifar10LT.release.folder, files)
    assert len(opened(Cifar10LT, tmp_path).load("held_out").images) == 230


def test_nothing_here_names_the_archive_and_the_command(tmp_path):
    with pytest.raises(DataMissingError) as error:
        opened(Cifar100LT, tmp_path / "no where").load("held_out")
    message = str(error.value)
    for fact in ("cifar-100-python.tar.gz", "cifar-100-python with meta", f"in {tmp_path}"):
        assert fact in message
    command = f"data fetch cifar100_lt --data-root '{tmp_path}/no where' --accept-licence"
    assert f"python bench.py {command}" in message


def refusing(*_arguments, **_more):
    raise AssertionError("a pickle was opened")


def test_a_changed_file_is_named_and_never_opened(official, tmp_path, monkeypatch):
    files, _ = official(Cifar10LT)
    data = files["data_batch_3"][:-9] + b"x" + files["data_batch_3"][-8:]
    put(tmp_path, {**files, "data_batch_3": data})
    monkeypatch.setattr(_cifar_files, "unpickled", refusing)
    with pytest.raises(VerificationError) as error:
        opened(Cifar10LT, tmp_path).load("held_out")
    message = str(error.value)
    for fact in (str(tmp_path), "data_batch_3", md5(data), md5(files["data_batch_3"])):
        assert fact in message
    assert "data_batch_2" not in message
    assert "Move it away and get it anew: python bench.py data fetch cifar10_lt" in message


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_cut_archive_is_refused(keep, official, tmp_path, monkeypatch):
    _, archive = official(Cifar10LT)
    put(tmp_path, {Cifar10LT.release.archive: archive[:keep]})
    monkeypatch.setattr(_cifar_files, "unpickled", refusing)
    with pytest.raises(VerificationError) as error:
        opened(Cifar10LT, tmp_path).load("held_out")
    assert f"found {md5(archive[:keep])} and {len(archive[:keep])} bytes" in str(error.value)
    assert Cifar10LT.release.archive_md5 in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "no gzip", "no tar"])
def test_a_damaged_archive_with_the_right_digest(damage, official, tmp_path, monkeypatch):
    _, archive = official(Cifar10LT)
    bad = {"cut": archive[:20_000], "no gzip": b"<html>", "no tar": archive[:10]}[damage]
    put(tmp_path, {Cifar10LT.release.archive: bad})
    monkeypatch.setattr(Cifar10LT, "release", replace(Cifar10LT.release, archive_md5=md5(bad)))
    with pytest.raises(VerificationError, match=r"cifar-10-python\.tar\.gz is damaged"):
        opened(Cifar10LT, tmp_path).load("held_out")


def test_missing_members_are_all_named(official, tmp_path, monkeypatch):
    files, _ = official(Cifar10LT)
    some = {name: files[name] for name in files if name not in ("data_batch_2", "test_batch")}
    put(tmp_path / "folder", some)
    archive = archive_of(Cifar10LT.release, some)
    put(tmp_path / "packed", {Cifar10LT.release.archive: archive})
    monkeypatch.setattr(Cifar10LT, "release", replace(Cifar10LT.release, archive_md5=md5(archive)))
    for place in ("folder", "packed"):
        with pytest.raises(VerificationError, match="found: no data_batch_2, no test_batch"):
            opened(Cifar10LT, tmp_path / place).load("held_out")


def changed(plugin, member, **changes):
    return {member: {**small_values(plugin)[member], **changes}}


LABELS = small_values(Cifar10LT)["test_batch"]["labels"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (changed(Cifar10LT, "test_batch", labels=[*LABELS[:-1], 10]), "labels from 0 to 9 (test)"),
        (changed(Cifar10LT, "test_batch", labels=[-1, *LABELS[1:]]), "found: -1"),
        (changed(Cifar10LT, "test_batch", labels=[0] * 30), "30 of class 0, 0 of class 1"),
        (changed(Cifar10LT, "test_batch", labels=LABELS[1:]), "a list of 29 in test_batch"),
        (changed(Cifar10LT, "test_batch", labels=["0"] * 30), "a list of N integers"),
        (
            changed(Cifar10LT, "test_batch", data=np.zeros((30, 3071), np.uint8)),
            "uint8 (30, 3071)",
        ),
        (changed(Cifar10LT, "test_batch", data=np.zeros(3072, np.uint8)), "uint8 (3072,)"),
        (changed(Cifar10LT, "data_batch_1", data=[1]), "a list of 1"),
        (changed(Cifar10LT, "test_batch", data=np.zeros((30, 3072), np.int8)), "'i1'"),
        ({"batches.meta": {"label_names": "airplane"}}, "list of class names as 'label_names'"),
        ({"batches.meta": {}}, "NoneType in batches.meta"),
        ({"batches.meta": ["airplane"]}, "a list of 1 in batches.meta"),
    ],
)
def test_other_contents_are_refused(changes, said, official, tmp_path):
    files, _ = official(Cifar10LT, changes)
    put(tmp_path, files)
    with pytest.raises(VerificationError) as error:
        opened(Cifar10LT, tmp_path).load("held_out")
    assert said in str(error.value)


class Runs:
    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_would_run_code_do_not(protocol, tmp_path):
    witness = tmp_path / "witness"
    calls = [
        (Runs(os.mkdir, str(witness)), "posix.mkdir"),
        (Runs(eval, f"__import__('os').mkdir({str(witness)!r})"), "eval"),
        (Runs(np.load, str(witness)), "load"),
        (Runs(getattr, np, "load"), "getattr"),
    ]
    for call, name in calls[:3]:
        with pytest.raises(pickle.UnpicklingError, match=f"asks for .*{name}.*not allowed"):
            unpickled(pickle.dumps({"data": call}, protocol=protocol))
    pickle.loads(pickle.dumps(calls[0][0], protocol=protocol))
    assert witness.is_dir()  # the same bytes do it for an ordinary reader


def test_a_pickle_that_would_run_code_is_refused_with_its_file(official, tmp_path, monkeypatch):
    files, _ = official(Cifar10LT)
    files["test_batch"] = pickle.dumps(Runs(os.mkdir, str(tmp_path / "witness")), protocol=2)
    put(tmp_path, files)
    digests = {**Cifar10LT.release.md5, "test_batch": md5(files["test_batch"])}
    monkeypatch.setattr(Cifar10LT, "release", replace(Cifar10LT.release, md5=digests))
    with pytest.raises(VerificationError, match=r"test_batch: it asks for posix\.mkdir"):
        opened(Cifar10LT, tmp_path).load("held_out")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("kind", ["O8", "i8", "V1"])
def test_arrays_of_anything_but_bytes_are_refused(kind):
    data = pickled(np.zeros(2, np.uint8))
    assert unpickled(data).tolist() == [0, 0]
    with pytest.raises(pickle.UnpicklingError, match=f"an array of '{kind}'"):
        unpickled(data.replace(python2("u1"), python2(kind)))


@pytest.mark.parametrize(
    ("settings", "train", "val"),
    [
        ({"imbalance": 9}, [18, 14, 11, 8, 6, 5, 4, 3, 2, 2], [2] + [1] * 9),
        ({"imbalance": 9, "balanced_validation": True}, None, [2] * 10),
        ({"imbalance": 9, "profile": "step"}, [18] * 5 + [2] * 5, [2] * 5 + [1] * 5),
        ({"imbalance": 9, "profile": "step", "balanced_validation": True}, None, [2] * 10),
        ({"imbalance": 1, "profile": "step"}, [18] * 10, [2] * 10),
    ],
)
def test_held_out(settings, train, val, official, tmp_path):
    files, _ = official(Cifar10LT)
    put(tmp_path, files)
    made = opened(Cifar10LT, tmp_path, **settings)
    source = made.load("held_out")
    splits = [made.split(source, "held_out", seed) for seed in (5, 5, 6)]
    counts = splits[0].notes["counts"]
    assert train is None or counts["train"] == train
    assert counts["val"] == val
    assert counts["test"] == [3] * 10
    assert not np.isin(splits[0].val, splits[0].train).any()
    assert set(source.partition[splits[0].train]) == {"train"}
    assert set(source.partition[splits[0].val]) == {"train"}
    assert splits[0].notes["nominal_imbalance"] == settings["imbalance"]
    for part in ("train", "val"):
        first, again, other = (getattr(split, part).tolist() for split in splits)
        assert first == again != other


def test_a_tail_without_images_names_the_class(official, tmp_path):
    files, _ = official(Cifar10LT)
    put(tmp_path, files)
    for profile in ("exponential", "step"):
        made = opened(Cifar10LT, tmp_path, imbalance=50, profile=profile)
        for protocol in made.protocols:
            with pytest.raises(UsageError, match="would get no image"):
                made.split(made.load(protocol), protocol, 0)


def test_a_factor_is_refused():
    with pytest.raises(ValidationError, match="write 100"):
        Cifar10LT.Config(imbalance=0.01)


def test_fetch_over_the_network(official, served, bench, tmp_path):
    _, archive = official(Cifar10LT)
    folder, url = served
    put(folder, {"cifar-10-python.tar.gz": archive})
    root = tmp_path / "root"
    fetch = ("data", "fetch", "cifar10_lt", "--data-root", root, "--mirror", url)
    refused = bench(*fetch)
    assert refused.code == 2
    assert "Licence: none is stated" in refused.out
    assert "Krizhevsky" in refused.out
    assert not root.exists()
    done = bench(*fetch, "--accept-licence")
    assert done.code == 0, done.err
    assert "230 images are ready" in done.out
    assert (root / "cifar-10-python.tar.gz").read_bytes() == archive
    assert [file.name for file in root.iterdir()] == ["cifar-10-python.tar.gz"]
    (folder / "cifar-10-python.tar.gz").unlink()
    again = bench(*fetch)
    assert again.code == 0
    assert "already" in again.out


def test_fetch_refuses_what_is_not_the_archive(official, served, bench, tmp_path):
    _, archive = official(Cifar100LT)
    folder, url = served
    put(folder, {"cifar-100-python.tar.gz": archive[:-1] + b"x"})
    fetch = ("data", "fetch", "cifar100_lt", "--data-root", tmp_path / "root", "--mirror", url)
    answer = bench(*fetch, "--accept-licence")
    assert answer.code == 4
    assert Cifar100LT.release.archive_md5 in answer.err


def test_fetch_from_a_folder_and_beside_unpacked_files(official, bench, tmp_path):
    files, archive = official(Cifar10LT)
    put(tmp_path / "hand", {"cifar-10-python.tar.gz": archive})
    fetch = ("data", "fetch", "cifar10_lt", "--data-root")
    taken = bench(*fetch, tmp_path / "root", "--from-dir", tmp_path / "hand")
    assert taken.code == 0, taken.err
    assert "230 images are ready" in taken.out
    put(tmp_path / "other" / "cifar-10-batches-py", files)
    here = bench(*fetch, tmp_path / "other")
    assert (here.code, "already" in here.out) == (0, True)
    (tmp_path / "other" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    damaged = bench(*fetch, tmp_path / "other")
    assert (damaged.code, "data_batch_1" in damaged.err) == (4, True)


@pytest.mark.parametrize("protocol", ["held_out", "published"])
def test_one_epoch(protocol, official, one_epoch, tmp_path):
    _, archive = official(Cifar10LT)
    put(tmp_path / "root", {"cifar-10-python.tar.gz": archive})
    one_epoch(
        *("cifar10_lt", "--data-root", tmp_path / "root", "--protocol", protocol),
        *("--set", "dataset.imbalance=4"),
    )


class Conformance(DatasetConformance):
    settings: ClassVar = {"imbalance": 4}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small_files(cls, tmp_path_factory):
        cls.data_root = tmp_path_factory.mktemp(cls.dataset)
        with pytest.MonkeyPatch.context() as patch:
            files, _ = made_official(
                DATASETS[cls.dataset], small_values(DATASETS[cls.dataset]), patch
            )
            put(cls.data_root, files)
            yield


class TestCifar10(Conformance):
    dataset = "cifar10_lt"


class TestCifar100(Conformance):
    dataset = "cifar100_lt"
