"""Files of tuned settings: what a run takes from them, and what it refuses."""

from __future__ import annotations

import pytest
import yaml

from ltbench.cell import prepare
from ltbench.config import rebuild, resolve
from ltbench.errors import UsageError
from ltbench.labels import changes
from ltbench.report.footer import footer
from ltbench.report.tables import comparison
from ltbench.runner import Place, run
from ltbench.testing.tiny import tiny_request
from ltbench.tuned import DIGEST, digest_of

SEEDS = [1_000_000, 1_000_001]


@pytest.fixture(scope="module")
def split_digest(tmp_path_factory):
    config = resolve(tiny_request("ce"))
    return prepare(config, results=tmp_path_factory.mktemp("runs"), data_root=None).split_digest


@pytest.fixture
def write(tmp_path, split_digest):
    """write({setting: value}, **block) -> a tuned file."""

    def write(settings, **block):
        whole = {
            **{"method": "ce", "preset": None, "dataset": "toy_blobs", "protocol": "held_out"},
            **{"study": "0a1b2c3d4e5f", "trial": 3, "best": True, "split_digest": split_digest},
            **{"seeds": SEEDS, "objective": "val.macro_f1", "value": 0.75, "default_value": 0.5},
            **{
                "validation_images": 24,
                "trials": 12,
                "pruned": 4,
                "epochs": 4,
                "device_hours": 0.25,
            },
            DIGEST: digest_of(settings),
            **block,
        }
        file = tmp_path / "tuned.yaml"
        file.write_text(yaml.safe_dump({**settings, "tuning": whole}), encoding="utf-8")
        return file

    return write


def request(file, method="ce", **settings):
    return tiny_request(method, settings, tuned_file=file)


def test_settings_are_taken_and_flags_win(write):
    file = write({"optimizer": {"weight_decay": 0.01, "momentum": 0.5}})
    config = resolve(request(file, **{"optimizer.momentum": 0.7}))
    assert (config.optimizer.weight_decay, config.optimizer.momentum) == (0.01, 0.7)
    assert config.tuned.study == "0a1b2c3d4e5f"
    assert rebuild(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(("block", "words"), [
    ({"method": "focal"}, "tuned for method 'focal', but this run's is 'ce'"),
    ({"preset": "balanced"}, "tuned for preset 'balanced', but this run's is 'none'"),
    ({"dataset": "digits_lt"}, "tuned for dataset 'digits_lt'"),
    ({"protocol": "official"}, "tuned for protocol 'official'"),
])  # fmt: skip
def test_settings_tuned_for_something_else_are_refused(write, block, words):
    with pytest.raises(UsageError, match=words):
        resolve(request(write({}, **block)))


def test_seeds_of_the_study_are_not_reported(write):
    file = write({})
    for settings in ({"seed": SEEDS[1]}, {"init_seed": SEEDS[0]}, {"loader_seed": SEEDS[0]}):
        with pytest.raises(UsageError, match="one of those the settings were tuned with"):
            resolve(request(file, **settings))


def test_another_split_is_refused(write, tmp_path):
    file = write({})
    other = resolve(request(file, **{"dataset.train_counts": [20, 9, 4, 2]}))
    with pytest.raises(UsageError, match="may be test images of the other"):
        prepare(other, results=tmp_path, data_root=None)
    prepare(resolve(request(file)), results=tmp_path, data_root=None)


def test_a_block_that_is_not_whole_is_refused(tmp_path):
    file = tmp_path / "tuned.yaml"
    file.write_text("tuning: {method: ce}\n")
    with pytest.raises(UsageError, match="lacks preset, dataset"):
        resolve(request(file))
    file.write_text("tuning: yes\n")
    with pytest.raises(UsageError, match="expected 'tuning' to hold"):
        resolve(request(file))


def test_settings_edited_since_are_not_those_of_the_study(write):
    file = write({"optimizer": {"weight_decay": 0.01, "lr": 1e-05}})
    resolve(request(file))
    whole = file.read_text()
    for other in ("0.02", ".nan", "2026-01-01"):
        file.write_text(whole.replace("0.01", other))
        with pytest.raises(UsageError, match=r"was edited since .* leave out the block 'tuning'"):
            resolve(request(file))


def test_seeds_that_are_suggested_are_not_refused(write):
    for taken, free in (([0, 1, 2, 3, 4], "5-9"), ([3, 7], "8-12"), (SEEDS, "0-4"), ([5], "0-4")):
        with pytest.raises(UsageError, match=f"such as --seeds {free}"):
            resolve(request(write({}, seeds=taken), seed=taken[0]))


def test_the_origin_is_no_setting(write):
    file = write({})
    stored = resolve(request(file)).model_dump(mode="json")
    with pytest.raises(UsageError, match="choose with --tuned FILE"):
        resolve(tiny_request("ce", {"tuned": stored["tuned"]}))
    resolve(request(file, tuned=stored["tuned"]))  # a stored config.json beside its tuned file


def test_rows_tuned_and_not_stand_apart(write, tmp_path):
    """Also where the best settings are the defaults."""
    base = {"epochs": 1}
    outcomes = [
        run(tiny_request("ce", base), Place(tmp_path)),
        run(request(write({}), **base), Place(tmp_path)),
        run(request(write({}, trial=2, best=False), **base), Place(tmp_path)),
    ]
    plain, best, other = (outcome.record for outcome in outcomes)
    assert len({record["key"] for record in (plain, best, other)}) == 3
    assert plain["label"].startswith("ce ")
    assert best["label"].split() == ["ce", "tuned", *plain["label"].split()[1:]]
    assert other["label"].startswith("ce tuned (trial 2) ")
    assert plain["tuning"] is None
    assert best["tuning"]["device_hours"] == 0.25
    assert best["digests"] == plain["digests"]
    (table,) = comparison([plain, best])
    (line,) = [line for line in footer([table]) if line.startswith("Tuned: ")]
    assert (
        "study 0a1b2c3d4e5f, trial 3 of 12 (4 pruned) of 4 epochs: 0.7500, untuned 0.5000" in line
    )
    assert f"Not tuned: {plain['label']}." in footer([table])


def test_what_was_tuned_is_not_listed_as_changed(write):
    file = write({"optimizer": {"weight_decay": 0.01}})
    words = changes(request(file, **{"optimizer.momentum": 0.7}))
    assert words[0] == "tuned"
    assert "optimizer.momentum=0.7" in words
    assert not any("weight_decay" in word for word in words)


def test_a_folder_has_a_file_for_each_method(write, tmp_path):
    folder = tmp_path / "all" / "toy_blobs" / "held_out"
    folder.mkdir(parents=True)
    write({"optimizer": {"momentum": 0.5}}).rename(folder / "ce.yaml")
    write({"optimizer": {"momentum": 0.6}}, preset="drw+mixup").rename(folder / "ce@drw+mixup.yaml")
    assert resolve(request(tmp_path / "all")).optimizer.momentum == 0.5
    assert resolve(request(tmp_path / "all", "ce@mixup+drw")).optimizer.momentum == 0.6
    with pytest.raises(UsageError, match=r"No tuned settings of ecl on toy_blobs.*bench.py tune"):
        resolve(request(tmp_path / "all", "ecl"))


def test_a_plain_file_of_settings_is_taken_as_such(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {weight_decay: 0.01}\n")
    config = resolve(request(file))
    assert config.tuned is None
    assert "tuned" not in config.hashed()
    assert "optimizer.weight_decay=0.01" in changes(request(file))
