"""What data sets say of their classes, and how it reaches a record."""

from __future__ import annotations

import pytest
from PIL import Image

from ltbench import evaluate_run
from ltbench.dataset import DATASETS
from ltbench.errors import UsageError
from ltbench.testing import tiny_run


def draw(folder):
    """Two pictures of each of three classes."""
    for name in ("mel", "nv", "df"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (9, 9), (i, 60, 90)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("isic2018", {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "AKIEC")}),
        ("isic2019", {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "SCC")}),
        ("pad_ufes_20", {"melanoma": ("MEL",), "malignant": ("MEL", "BCC", "SCC")}),
        ("dermamnist", {"melanoma": ("mel",), "malignant": ("mel", "bcc", "akiec")}),
        ("pathmnist", {"adenocarcinoma": ("colorectal adenocarcinoma epithelium",)}),
        ("digits_lt", {}),
    ],
)
def test_what_data_sets_declare(name, groups):
    plugin = DATASETS[name]
    made = plugin(plugin.Config())
    assert made.class_groups() == groups
    known = getattr(plugin, "known", None) or getattr(plugin, "release", None)
    classes = getattr(plugin, "counts", None) or getattr(known, "class_names", None)
    classes = classes or getattr(known, "counts", None)
    for names in groups.values():
        assert set(names) < set(classes)


def test_own_data_declare_their_positive_classes(tmp_path):
    plugin, folder = DATASETS["folder"], draw(tmp_path)
    one = plugin(plugin.Config(positive="mel"), folder)
    assert one.class_groups() == {"positive": ("mel",)}
    assert one.table("auto").class_names == ("df", "mel", "nv")
    assert plugin(plugin.Config(), folder).class_groups() == {}
    with pytest.raises(UsageError, match="did you mean 'mel'"):
        plugin(plugin.Config(positive=("mle",)), folder).table("auto")


def test_what_is_positive_decides_no_key():
    for name in ("csv", "folder", "lists", "npz"):
        plugin = DATASETS[name]
        identity = plugin.Config().identity()
        assert plugin.Config(positive=("a",)).identity() == identity


def test_a_real_run_is_evaluated(tmp_path):
    outcome = tiny_run("ce", tmp_path, {"epochs": 1})
    assert outcome.record["class_groups"] == {}
    assert outcome.record["group_noun"] == "group"
    found = evaluate_run(outcome)
    metrics = outcome.record["metrics"]["test"]
    assert found["metrics"]["balanced_accuracy"] == pytest.approx(metrics["balanced_accuracy"])
    assert found["run"] == outcome.folder.name
