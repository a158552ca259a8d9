import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from pydantic import Field

from ltbench.data import lists as stored
from ltbench.data.images import ArrayImages
from ltbench.data.lists import (
    load,
    make_lists,
    save,
    source_digest,
    stored_split,
    to_split,
)
from ltbench.data.longtail import held_out
from ltbench.dataset import Dataset, DatasetConfig, Source, Split
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.registry import PluginInfo


class Beetles(Dataset):
    """Three kinds, two pictures a beetle; counts how often a split is made."""

    class Config(DatasetConfig):
        imbalance: float = Field(default=4, ge=1)

    info = PluginInfo(name="beetles")
    protocols: ClassVar = {"held_out": "by beetle", "other": "the same"}
    default_protocol = "held_out"
    default_recipe = "digits"
    num_made = 0

    def load(self, protocol) -> Source:
        targets = np.repeat(np.arange(3), 40)
        return Source(
            images=ArrayImages(np.zeros((120, 1, 1, 1), dtype=np.uint8)),
            ids=np.array([f"beetle/{i:03d}é.png" for i in range(120)]),
            targets=targets,
            class_names=("ground", "stag", "rove"),
            groups=np.array([f"b{i // 2}" for i in range(120)]),
        )

    def split(self, source: Source, protocol: str, seed: int) -> Split:
        self.num_made += 1
        return held_out(source, imbalance=self.config.imbalance, seed=seed, val_fraction=0.2)


def beetles(**settings) -> Beetles:
    return Beetles(Beetles.Config(**settings))


@pytest.fixture
def source():
    return beetles().load("held_out")


def made(source: Source, **about):
    about = {"dataset": "beetles", "protocol": "held_out", "seed": 0, "settings": {}} | about
    split = beetles().split(source, "held_out", about["seed"])
    return make_lists(split, source, **about)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_same(one: Split, other: Split) -> None:
    for part in ("train", "val", "test"):
        a, b = getattr(one, part), getattr(other, part)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype == np.int64
            np.testing.assert_array_equal(a, b)


def test_positions_become_ids_and_come_back(source, tmp_path):
    split = beetles().split(source, "held_out", 0)
    lists = made(source, settings={"imbalance": 4.0})
    save(lists, tmp_path / "new" / "lists.json")
    read = load(tmp_path / "new" / "lists.json")
    assert read == lists
    back = to_split(read, source)
    assert_same(back, split)
    assert back.notes == split.notes


def test_the_file_says_what_the_split_is(source, tmp_path):
    save(made(source), tmp_path / "lists.json")
    text = (tmp_path / "lists.json").read_text(encoding="ascii")
    obj = json.loads(text)
    split = beetles().split(source, "held_out", 0)
    assert obj["schema_version"] == 1
    assert obj["class_names"] == ["ground", "stag", "rove"]
    assert obj["parts"]["train"] == source.ids[split.train].tolist()
    assert obj["counts"] == split.notes["counts"]
    assert obj["classes"]["train"].count("rove") == obj["counts"]["train"][2]
    assert obj["source_digest"] == source_digest(source)
    assert len(obj["digest"]) == 64


def test_a_protocol_without_validation(source, tmp_path):
    split = Split(train=np.arange(5), val=None, test=np.arange(5, 9))
    lists = make_lists(split, source, dataset="d", protocol="p", seed=0, settings={})
    save(lists, tmp_path / "lists.json")
    assert json.loads((tmp_path / "lists.json").read_text())["parts"]["val"] is None
    assert_same(to_split(load(tmp_path / "lists.json"), source), split)


def test_digest_is_of_ids_and_classes_alone(source):
    digest = made(source).digest
    assert made(source, dataset="other", settings={"a": 1}).digest == digest
    assert made(source, seed=1).digest != digest
    assert made(replace(source, class_names=("ground", "rove", "stag"))).digest != digest


def test_every_fact_of_the_source_counts(source):
    changed_ids = source.ids.copy()
    changed_ids[7] = "beetle/new.png"
    variants = [
        source,
        replace(source, ids=changed_ids),
        replace(source, targets=source.targets[::-1].copy()),
        replace(source, class_names=("ground", "rove", "stag")),
        replace(source, groups=None),
        replace(source, groups=source.groups[::-1].copy()),
        replace(source, partition=np.repeat(["train", "test"], 60)),
    ]
    assert len({source_digest(variant) for variant in variants}) == len(variants)


def test_two_images_of_one_id_are_refused(source):
    ids = source.ids.copy()
    ids[3] = ids[2]
    with pytest.raises(VerificationError, match=r"'beetle/002é\.png' names 2"):
        source_digest(replace(source, ids=ids))


def move_an_id(obj):
    obj["parts"]["train"].append(obj["parts"]["test"].pop())
    obj["classes"]["train"].append(obj["classes"]["test"].pop())


def change_a_class(obj):
    obj["classes"]["val"][0] = "rove"


def rename_a_class(obj):
    obj["class_names"][0] = "earth"


def drop_an_id(obj):
    del obj["parts"]["test"][0]


def change_the_digest(obj):
    obj["digest"] = "0" * 64


@pytest.mark.parametrize(
    "tamper", [move_an_id, change_a_class, rename_a_class, drop_an_id, change_the_digest]
)
def test_changed_lists_are_refused(source, tmp_path, tamper):
    path = tmp_path / "lists.json"
    save(made(source), path)
    obj = json.loads(path.read_text())
    tamper(obj)
    path.write_text(json.dumps(obj))
    with pytest.raises(VerificationError) as error:
        load(path)
    message = str(error.value)
    assert str(path) in message
    assert f"expected digest {obj['digest']}" in message
    assert load_digest_of(obj) in message
    assert "Restore the file" in message


def load_digest_of(obj) -> str:
    return stored.SplitLists.model_validate(obj).content_digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"parts": {"train": [1]}}, r"parts\.train\.0"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_other_files_are_refused(source, tmp_path, change, message):
    path = tmp_path / "lists.json"
    save(made(source), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(VerificationError, match=message):
        load(path)


def test_a_cut_or_missing_file(source, tmp_path):
    path = tmp_path / "lists.json"
    with pytest.raises(DataMissingError):
        load(path)
    save(made(source), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VerificationError, match="damaged"):
        load(path)


def test_unknown_ids_and_other_classes_are_named(source):
    lists = made(source)
    gone = lists.parts["val"][0]
    fewer = source.ids != gone
    missing = replace(
        source, ids=source.ids[fewer], targets=source.targets[fewer], groups=source.groups[fewer]
    )
    with pytest.raises(VerificationError, match=f"val list names the image '{gone}'"):
        to_split(lists, missing)
    relabelled = source.targets.copy()
    relabelled[source.ids == gone] = 2
    with pytest.raises(VerificationError, match=f"'{gone}' as class 'ground', the data as 'rove'"):
        to_split(lists, replace(source, targets=relabelled))
    with pytest.raises(VerificationError, match="Expected the classes"):
        to_split(lists, replace(source, class_names=("ground", "rove", "stag")))


@pytest.mark.parametrize("part", ["val", "test"])
def test_lists_with_an_image_twice_are_refused(source, part):
    split = beetles().split(source, "held_out", 0)
    twice = replace(split, **{part: np.sort(np.append(getattr(split, part), split.train[0]))})
    lists = make_lists(twice, source, dataset="d", protocol="p", seed=0, settings={})
    with pytest.raises(VerificationError, match=f"'{source.ids[split.train[0]]}' stands in"):
        to_split(lists, source)


def test_written_once_and_read_ever_after(source, tmp_path):
    dataset = beetles()
    first, digest = stored_split(dataset, source, "held_out", 0, tmp_path)
    (path,) = files_in(tmp_path)
    assert path.parent == tmp_path / "beetles" / "held_out"
    assert len(path.stem) == 16
    written = path.read_bytes()
    again, same = stored_split(dataset, source, "held_out", 0, tmp_path)
    assert dataset.num_made == 1
    assert digest == same == load(path).digest
    assert_same(first, again)
    assert first.notes == again.notes
    assert path.read_bytes() == written


def test_a_changed_algorithm_does_not_change_a_stored_split(source, tmp_path, monkeypatch):
    first, digest = stored_split(beetles(), source, "held_out", 0, tmp_path)
    other = Split(train=np.arange(3), val=None, test=np.arange(3, 5))
    monkeypatch.setattr(Beetles, "split", lambda *_: other)
    again, same = stored_split(beetles(), source, "held_out", 0, tmp_path)
    assert_same(first, again)
    assert digest == same


def test_whatever_can_change_a_split_has_a_file_of_its_own(source, tmp_path):
    stored_split(beetles(), source, "held_out", 0, tmp_path)
    stored_split(beetles(), source, "held_out", 1, tmp_path)
    stored_split(beetles(), source, "other", 0, tmp_path)
    stored_split(beetles(imbalance=2), source, "held_out", 0, tmp_path)
    stored_split(beetles(), replace(source, groups=None), "held_out", 0, tmp_path)
    assert len(files_in(tmp_path)) == 5


def test_a_file_of_another_case_is_refused(source, tmp_path):
    stored_split(beetles(), source, "held_out", 0, tmp_path)
    (path,) = files_in(tmp_path)
    stored_split(beetles(imbalance=2), source, "held_out", 0, tmp_path)
    (other,) = set(files_in(tmp_path)) - {path}
    other.replace(path)
    with pytest.raises(VerificationError, match="expected settings"):
        stored_split(beetles(), source, "held_out", 0, tmp_path)


def test_a_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "beetles").write_text("in the way")
    with pytest.raises(UsageError):
        stored_split(beetles(), source, "held_out", 0, tmp_path)


def digest_of_seed_0(folder) -> str:
    return stored_split(beetles(), beetles().load("held_out"), "held_out", 0, folder)[1]


def test_threads_and_processes_at_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(digest_of_seed_0, [tmp_path / "threads"] * 24))
    with multiprocessing.get_context("fork").Pool(2) as processes:
        digests |= set(processes.map(digest_of_seed_0, [tmp_path / "processes"] * 4))
    assert len(digests) == 1
    assert len(files_in(tmp_path)) == 2  # no temporary file is left
