"""What stands in which column and row, and what is refused to stand beside what."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import expected
from table_records import CE, ECL, OTHER, made, made_ledger, made_metrics

from ltbench.errors import DataMissingError, UsageError
from ltbench.report.layouts import LAYOUTS
from ltbench.report.quantities import of_runs
from ltbench.report.rows import tables_of
from ltbench.report.sheet import MISSING
from ltbench.report.tables import sheets, single_sheets


def texts(sheet):
    return [[entry.text for entry in line.entries] for line in sheet.lines]


def headings(sheet):
    return [(column.group, column.heading) for column in sheet.columns]


def two_sets(**more):
    a = {"dataset": "isic2018", "split_digest": "a" * 64, "protocol": "group"}
    b = {"dataset": "isic2019", "split_digest": "b" * 64, "protocol": "group", **more}
    return [
        made(key="k1", **a),
        made("focal", key="k2", accuracy=0.7, **a),
        made(key="k3", accuracy=0.6, **b),
        made("ldam", key="k4", accuracy=0.9, **b),
    ]


def test_the_papers_layout_has_data_sets_side_by_side():
    (sheet,) = sheets(two_sets(), "paper")
    metrics = ["Acc (%)", "Sen (%)", "Pre (%)", "F1 (%)", "AUC (%)"]
    assert headings(sheet) == [
        *(("", "method"), ("", "seeds")),
        *(("isic2018", metric) for metric in metrics),
        *(("isic2019", metric) for metric in metrics),
    ]
    rows = {row[0]: row for row in texts(sheet)}
    assert list(rows) == ["ce", "focal", "ldam"]
    assert rows["ce"][2] == "80.00"
    assert rows["ce"][7] == "60.00"


def test_a_method_missing_on_one_set_shows_a_dash_and_the_footer_says_so():
    (sheet,) = sheets(two_sets(), "paper")
    rows = {row[0]: row for row in texts(sheet)}
    assert rows["focal"][7:] == [MISSING] * 5
    assert rows["ldam"][2:7] == [MISSING] * 5
    assert f"{MISSING}: no finished run: ldam on isic2018; focal on isic2019." in sheet.footer


def test_rows_side_by_side_name_their_runs():
    (sheet,) = sheets(two_sets(), "paper")
    line = next(line for line in sheet.footer if line.startswith("Keys: "))
    assert line.startswith("Keys: ce k1 (isic2018), k3 (isic2019); focal k2 (isic2018)")


def test_protocols_are_not_mixed_unless_asked():
    records = two_sets(protocol="paper")
    with pytest.raises(UsageError, match=r"group \(isic2018\); paper \(isic2019\).*--mixed"):
        sheets(records, "paper")
    (sheet,) = sheets(records, "paper", mixed=True)
    assert {group for group, _ in headings(sheet)} == {"", "isic2018 (group)", "isic2019 (paper)"}
    assert any("Protocol: group." in line for line in sheet.footer)
    assert any("Protocol: paper." in line for line in sheet.footer)
    assert len(sheets(records)) == 2


def test_splits_of_one_data_set_are_not_mixed_unless_asked():
    records = [made(key="k1"), made(key="k2", split_digest="f" * 64)]
    with pytest.raises(UsageError, match=r"digits_lt: 01234567, ffffffff.*--mixed"):
        sheets(records, "paper")
    (sheet,) = sheets(records, "paper", mixed=True)
    assert ("digits_lt, split ffffffff", "Acc (%)") in headings(sheet)
    assert len(sheet.lines) == 1


def test_one_label_of_two_machines_is_two_rows_on_both_sets():
    shared = {"dataset": "isic2019", "split_digest": "b" * 64}
    records = [
        made(key="k1", threads=1),
        made(key="k2", threads=2),
        made(key="k3", threads=1, **shared),
        made(key="k4", threads=2, **shared),
    ]
    (sheet,) = sheets(records, "paper")
    assert [row[0] for row in texts(sheet)] == ["ce k1", "ce k2"]
    assert not any(MISSING in row for row in texts(sheet))
    assert any("Threads: 1 (ce k1); 2 (ce k2)." in line for line in sheet.footer)


def test_what_cannot_be_told_apart_stays_alone():
    shared = {"dataset": "isic2019", "split_digest": "b" * 64}
    records = [made(key="k1"), made(key="k2"), made(key="k3", **shared)]
    (sheet,) = sheets(records, "paper")
    assert [row[0] for row in texts(sheet)] == ["ce k1", "ce k2", "ce k3"]


def test_what_differs_between_sets_is_said_by_set():
    records = two_sets(precision="bf16")
    (sheet,) = sheets(records, "paper")
    line = next(line for line in sheet.footer if "Precision" in line)
    assert "Precision: 32 (ce on isic2018, focal); bf16 (ce on isic2019, ldam)." in line


def test_seeds_side_by_side():
    more = {"dataset": "isic2019", "split_digest": "b" * 64}
    records = [made(key="k1", seed=seed) for seed in range(5)]
    records += [made(key="k2", seed=seed, **more) for seed in range(3)]
    (sheet,) = sheets(records, "paper")
    assert texts(sheet)[0][1] == "5 / 3 (provisional)"


def tail_metrics(**more):
    groups = {
        "head": {"classes": ["NV", "MEL"], "sensitivity": 0.9},
        "medium": {"classes": [], "sensitivity": None},
        "tail": {"classes": ["DF"], "sensitivity": 0.25},
    }
    return made_metrics(0.8, groups=groups, worst_class_sensitivity=0.25, **more)


def test_the_tail_layout_says_which_classes_are_which():
    (sheet,) = sheets([made(metrics=tail_metrics())], "tail")
    assert texts(sheet)[0][3:] == ["70.00", "90.00", "n/a", "25.00", "25.00"]
    line = next(line for line in sheet.footer if line.startswith("Sensitivity"))
    assert "head: 2 classes (NV, MEL) with more than 100 training images" in line
    assert "tail: 1 class (DF) with fewer than 20 training images" in line
    assert "medium: no such class with 20 to 100 training images" in line


def test_the_clinical_layout_explains_its_columns():
    (sheet,) = sheets([made(metrics=tail_metrics(ece=0.05, brier=0.2))], "clinical")
    shown = dict(zip([h for _, h in headings(sheet)], texts(sheet)[0], strict=True))
    assert shown["ECE (%)"] == "5.00"
    assert shown["NLL (nats)"] == "1.2500"
    assert any(line.startswith("balanced accuracy: mean of") for line in sheet.footer)


class Derived(NamedTuple):
    title: str
    value: Callable
    definition: str = "what it is"
    percent: bool = True
    higher_is_better: bool = True


def test_columns_that_are_computed_from_runs():
    asked = []

    def lesions(run):
        asked.append(run.path.name)
        if run.path.name == "seed-2":
            raise DataMissingError("no predictions")
        return 0.5

    columns = {
        "lesions": Derived("Sen a lesion", lesions),
        "temperature": Derived("T", lambda run: 1.5, percent=False),
        "never": Derived("never", lambda run: None),
    }
    records = [{**made(seed=seed), "folder": f"runs/seed-{seed}"} for seed in range(2)]
    found = of_runs(columns, records)
    assert [quantity.heading for quantity in found] == ["Sen a lesion (%)", "T"]
    (table,) = tables_of(records, lambda _: found)
    assert table.rows[0].cells["lesions"].mean == 0.5
    assert asked == ["seed-0", "seed-1"]
    (sheet,) = single_sheets([table])
    assert texts(sheet)[0][3:] == ["50.00 ± 0.00", "1.5000 ± 0.0000"]
    lost = [*records, {**made(seed=2), "folder": "runs/seed-2"}, made(seed=3)]
    (table,) = tables_of(lost, lambda _: found)
    assert table.rows[0].cells["lesions"].mean is None


def test_the_compute_layout_has_one_unit_a_column():
    tuning = {"trials": 30, "device_hours": 1.5, "objective": "val.macro_f1"}
    small = {"ledger": {"num_parameters": 1000, "train_time_s": 30.0, "wall_time_s": 40.0}}
    records = [
        made(**made_ledger(0), tuning=tuning),
        made("focal", ECL, **small),
    ]
    (sheet,) = sheets(records, "compute")
    shown = [h for _, h in headings(sheet)]
    assert shown[3:] == [
        *("parameters (million)", "forward passes a step", "images seen (thousand)"),
        *("training (min)", "wall time (min)", "images/s", "peak memory (GB)", "pre-training"),
        *("tuning trials", "tuning (device-hours)"),
    ]
    rows = texts(sheet)
    assert rows[0][3:8] == ["23.52", "1", "600.50", "90.00", "100.00"]
    assert rows[1][3:8] == ["0.00", "n/a", "n/a", "0.50", "0.67"]
    assert rows[0][-2:] == ["30", "1.50"]
    values = {v["metric"]: v for v in sheet.values if v["label"] == "ce"}
    assert (values["train_time_s"]["mean"], values["train_time_s"]["unit"]) == (5400.0, "s")
    assert values["pretraining"]["text"] == "resnet50.tv_in1k"


def test_what_no_row_has_is_no_column_of_costs():
    (sheet,) = sheets([made()], "compute")
    assert [h for _, h in headings(sheet)][3:] == ["parameters (thousand)", "wall time (s)"]
    assert any("No row is tuned." in line for line in sheet.footer)


def test_stages_with_other_numbers_of_passes_are_named():
    ledger = {"forward_passes_per_step": {"contrast": 2, "linear": 1}}
    (sheet,) = sheets([made(ledger=ledger)], "compute")
    assert texts(sheet)[0][3] == "contrast 2, linear 1"


def test_each_class_is_between_rules_largest_first():
    found = sheets(expected.records(), classes=True)
    assert len(found) == 2
    rows = texts(found[1])
    assert [row[0] for row in rows[::3]] == ["NV", expected.AWKWARD, "M, E | L"]
    assert [row[1:3] for row in rows[::3]] == [["4023", "60"], ["667", "6"], ["12", "24"]]
    assert [row[3] for row in rows[:3]] == ["ce", "ecl@authors †", expected.AWKWARD]
    begins = [number for number, line in enumerate(found[1].lines) if line.begins_section]
    assert begins == [3, 6]


def test_records_without_class_numbers_have_no_table_of_classes():
    assert len(sheets([made()], classes=True)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ties_and_undefined_values_go_through_every_layout(layout):
    records = [made(), made("focal", ECL), made("bcl", OTHER, metrics=made_metrics(0.8, nll=None))]
    (sheet,) = sheets(records, layout, classes=True)
    assert [row[0] for row in texts(sheet)] == ["ce", "focal", "bcl"]


def test_rows_are_sorted_in_the_direction_of_the_metric():
    records = [
        made("a", CE, accuracy=0.7),
        made("b", ECL, metrics=made_metrics(0.9, nll=0.5) | {"accuracy": None}),
        made("c", OTHER, accuracy=0.8, metrics=made_metrics(0.8, nll=2.0)),
    ]

    def order(name, layout="plain"):
        return [row[0] for row in texts(sheets(records, layout, sort=name)[0])]

    assert order("accuracy") == ["c", "a", "b"]
    assert order("nll", "clinical") == ["b", "a", "c"]
    assert order("macro-f1") == ["b", "c", "a"]
    with pytest.raises(UsageError, match=r"No column 'nll'.*accuracy"):
        order("nll")


def test_an_unknown_layout_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'clinical'"):
        sheets([made()], "clincal")


def test_long_lists_of_rows_are_counted():
    records = [made(f"row {i}", f"k{i:02d}", threads=1 + i % 2) for i in range(60)]
    (sheet,) = sheets(records)
    line = next(line for line in sheet.footer if "Threads" in line)
    assert "row 20 and 19 more)" in line
    assert len(line) < 500


def test_a_group_is_called_what_the_data_set_calls_it():
    notes = {"groups": {"test": 5}}
    facts = {"metrics": made_metrics(0.8, num_images=20), "protocol_notes": notes}
    (sheet,) = sheets([made(group_noun="patient", **facts)])
    assert sheet.caption.endswith("20 test images in 5 patients")
    (sheet,) = sheets([made(**facts)])
    assert sheet.caption.endswith("20 test images in 5 groups")


FACTS = {
    "num_devices": 2,
    "device": "NVIDIA A100",
    "batchnorm": "synchronised",
    "selected": [{"stage": "contrast", "epochs": 100}, {"stage": "linear", "epochs": 20}],
    "init_from": {"label": "ce", "dataset": "isic2018", "protocol": "group", "run": "ab/seed-0"},
    "weights": {"name": "resnet50.tv_in1k"},
    "git": {"commit": "c6c340e647ed" + "0" * 28, "dirty": True},
}


def test_what_the_footer_says_of_training():
    (sheet,) = sheets([made(**FACTS)])
    text = "\n".join(sheet.footer)
    assert "Devices: 2 x NVIDIA A100. BatchNorm: synchronised." in text
    assert "Epochs: 100 contrast + 20 linear." in text
    assert "Began with the weights of: ce on isic2018, protocol group (run ab/seed-0)." in text
    assert "Pre-trained weights: resnet50.tv_in1k." in text
    assert "Code: commit c6c340e647ed with uncommitted changes." in text


def test_what_records_do_not_say_is_said_to_be_missing():
    bare = {name: None for name in ("git", "versions", "selected", "recipe", "groups_note")}
    (sheet,) = sheets([made(num_devices=2, **bare)])
    text = "\n".join(sheet.footer)
    assert "Recipe: not recorded" in text
    assert "BatchNorm: not recorded." in text
    assert "commit not recorded. Versions: not recorded." in text
    assert "Groups: none are known." in text
