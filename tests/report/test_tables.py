"""Tables of a small set of made records, letter by letter."""

from __future__ import annotations

import io
import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from table_records import CE, ECL, OTHER, made, made_metrics

from ltbench.errors import UsageError, VerificationError
from ltbench.metrics import METRICS, evaluate
from ltbench.predictions import Predictions
from ltbench.report.as_csv import COLUMNS, read_csv
from ltbench.report.footer import footer
from ltbench.report.tables import (
    DEFAULT_METRICS,
    comparison,
    frame,
    per_class,
    to_csv,
    to_markdown,
)

RECORDS = [
    *(made(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate([0.8, 0.81, 0.79])),
    *(made("ecl@authors", ECL, seed, 0.85 + 0.01 * seed) for seed in range(5)),
    made("ecl method.temperature=0.2", OTHER, accuracy=0.9),
]


def test_markdown_letter_by_letter():
    (table,) = comparison(RECORDS, metrics=("accuracy", "macro_auc", "nll"))
    assert to_markdown(table) == (
        "**Test results on digits_lt, protocol held_out**\n"
        "\n"
        "| method                       | key       |           seeds |      Acc (%) |   AUC (%) |"
        "      NLL (nats) |\n"
        "|:-----------------------------|:----------|----------------:|-------------:|----------:|"
        "----------------:|\n"
        "| ce                           | 1a2b3c4d5 | 3 (provisional) | 80.00 ± 1.00 |       n/a |"
        " 1.2500 ± 0.0000 |\n"
        "| ecl@authors †                | 9f8e7d6c5 |               5 | 87.00 ± 1.58 |       n/a |"
        " 1.2500 ± 0.0000 |\n"
        "| ecl method.temperature=0.2 † | 9f8e7d6c0 | 1 (provisional) |        90.00 |       n/a |"
        "          1.2500 |\n"
        "\n"
        "- Data set: digits_lt. Protocol: held_out. Split: 0123456789ab. Results are of its"
        " test part.\n"
        "- Protocol notes: measured imbalance: train 50; split by: image.\n"
        "- Groups: writers are unknown.\n"
        "- Leak: groups are not known, so none can be measured.\n"
        "- Recipe: digits. Seeds: 0, 1, 2 (ce); 0, 1, 2, 3, 4 (ecl@authors);"
        " 0 (ecl method.temperature=0.2). Selection: val.accuracy. Epochs: 60.\n"
        "- Devices: 1 x cpu. Precision: 32. Threads: 2. Views: device.\n"
        "- Code: commit 0123abcd0123. Versions: ltbench 0.1.0, torch 2.14.1.\n"
        "- Mean ± sample standard deviation over seeds; rates in percent.\n"
        "- Provisional: fewer than 5 seeds.\n"
        "- † Training itself uses results on the validation part.\n"
    )


def test_csv_letter_by_letter():
    (table,) = comparison(RECORDS[:2] + RECORDS[-1:], metrics=("accuracy", "macro_auc"))
    sd = statistics.stdev([0.8, 0.81])
    split = "0123456789abcdef" * 4
    ce = f"digits_lt,held_out,{split},ce,{CE},False,2,0 1,True,,"
    ecl = f"digits_lt,held_out,{split},ecl method.temperature=0.2,{OTHER},True,1,0,True,,"
    assert to_csv(table) == (
        "dataset,protocol,split_digest,label,key,uses_validation,num_seeds,seeds,provisional,"
        "class,metric,unit,mean,sd,text,bold,num_images,num_groups,published,verified,paper,table,"
        "row\n"
        f"{ce}accuracy,,0.805,{sd!r},,False,,,False,,,,\n"
        f"{ce}macro_auc,,,,,False,,,False,,,,\n"
        f"{ecl}accuracy,,0.9,,,False,,,False,,,,\n"
        f"{ecl}macro_auc,,,,,False,,,False,,,,\n"
    )
    assert set(read_csv(to_csv(table))[0]) == set(COLUMNS)


def test_csv_holds_the_unrounded_numbers():
    values = [0.1 + 0.2, 1 / 3, 2 / 7]
    (table,) = comparison([made(seed=i, accuracy=value) for i, value in enumerate(values)])
    line = pd.read_csv(io.StringIO(to_csv(table))).iloc[0]
    assert line["mean"] == statistics.fmean(values)
    assert line["sd"] == statistics.stdev(values)
    assert line["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_the_default_columns_are_the_papers_five_and_balanced_accuracy():
    (table,) = comparison(RECORDS)
    header = [cell.strip() for cell in to_markdown(table).splitlines()[2].strip("|").split("|")]
    assert header == [
        *("method", "key", "seeds", "Acc (%)", "Sen (%)", "Pre (%)", "F1 (%)", "AUC (%)"),
        "balanced accuracy (%)",
    ]
    assert table.metrics == DEFAULT_METRICS


def test_protocols_splits_imbalances_and_data_sets_never_share_a_table():
    records = [
        made(key="a"),
        made(key="b", protocol="published"),
        made(key="c", split_digest="f" * 64),
        made(key="d", dataset="fashion_mnist_lt"),
        made(key="e", protocol_notes={"measured_imbalance": {"train": 100.0}}),
        made(label="focal", key="f"),
    ]
    tables = comparison(records)
    assert [[row.key for row in table.rows] for table in tables] == [
        *(["a", "f"], ["b"], ["c"], ["d"], ["e"]),
    ]
    assert [table.protocol for table in tables][:2] == ["held_out", "published"]


def test_notes_in_words_do_not_divide_a_table():
    notes = {"measured_imbalance": {"train": 50.0}, "split_by": "picture"}
    (table,) = comparison([made(), made("focal", ECL, protocol_notes=notes)])
    assert "split by: image (ce); " in footer([table])[1]
    assert "split by: picture (focal)." in footer([table])[1]
    assert footer([table])[2] == "Groups: writers are unknown."


def test_one_label_with_two_keys_stays_two_rows_told_apart():
    records = [made(key=ECL), made(key=OTHER, threads=4)]
    (table,) = comparison(records)
    text = to_markdown(table)
    assert len(table.rows) == 2
    assert "Threads: 2 (ce 9f8e7d6c5); 4 (ce 9f8e7d6c0)." in text
    assert "| 9f8e7d6c5 |" in text
    assert "| 9f8e7d6c0 |" in text


def test_rows_keep_the_order_of_the_records_and_seeds_are_sorted():
    (table,) = comparison([made("b", "k1", 3), made("a", "k2", 0), made("b", "k1", 1)])
    assert [(row.label, row.seeds) for row in table.rows] == [("b", (1, 3)), ("a", (0,))]


def test_differences_between_rows_are_said():
    records = [made(), made("focal", ECL, recipe="fashion", device="A100", precision="bf16-mixed")]
    (table,) = comparison(records)
    text = "\n".join(footer([table]))
    assert "Recipe: digits (ce); fashion (focal)." in text
    assert "Devices: 1 x cpu (ce); 1 x A100 (focal)." in text
    assert "Precision: 32 (ce); bf16-mixed (focal)." in text


def test_batchnorm_is_told_where_a_row_had_several_devices():
    one, two = made(batchnorm="one device"), made("ecl", ECL, num_devices=2, batchnorm="per device")
    (table,) = comparison([one, two])
    assert (
        "Devices: 1 x cpu (ce); 2 x cpu (ecl). BatchNorm: one device (ce); per device (ecl). "
    ) in "\n".join(footer([table]))
    (table,) = comparison([one])
    assert "BatchNorm" not in "\n".join(footer([table]))
    (table,) = comparison([made(num_devices=2)])
    assert "BatchNorm: not recorded." in "\n".join(footer([table]))


def test_classes_without_test_images_and_ties_are_told():
    averaged = {"classes_averaged": {"macro_f1": 6, "macro_auc": 6}, "num_classes": 8}
    rows = [made(metrics=made_metrics(0.8, **averaged, num_tied=0))]
    rows.append(made("ecl", ECL, metrics=made_metrics(0.9, **averaged, num_tied=2)))
    (table,) = comparison(rows)
    assert "Means over classes: of the 6 of 8 classes that have test images." in footer([table])
    (ties,) = (line for line in footer([table]) if line.startswith("Ties"))
    assert ties.endswith("(ecl).")
    (whole,) = comparison(RECORDS)
    assert not any(line.startswith(("Means over classes", "Ties")) for line in footer([whole]))


def test_a_metric_undefined_for_one_seed_is_undefined_for_the_row():
    records = [made(seed=0, metrics=made_metrics(0.8, macro_auc=0.9)), made(seed=1)]
    (table,) = comparison(records, metrics=["macro_auc"])
    assert table.rows[0].cells["macro_auc"].mean is None
    assert "n/a" in to_markdown(table)


def test_no_marks_without_need():
    (table,) = comparison([made(seed=seed) for seed in range(5)])
    text = to_markdown(table)
    assert "rovisional" not in text
    assert "†" not in text


def test_a_run_given_twice_is_refused():
    for make in (comparison, frame):
        with pytest.raises(VerificationError, match=f"{CE}/seed-0"):
            make([made(), made("focal", ECL), made()])


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'macro_f1'"):
        comparison([made()], metrics=["macro_f2"])
    assert comparison([made()], metrics=["macro-f1"])[0].metrics == ("macro_f1",)


def test_no_records_make_no_table():
    assert comparison([]) == []
    assert len(frame([])) == 0
    assert {"label", "seed", "test.accuracy"} <= set(frame([]).columns)


def test_markdown_escapes_what_would_be_markup():
    label = "a|b <i>&amp; my_net *x* `y` [z](u)\\"
    (table,) = comparison([made(label, dataset="a_b|c")])
    text = to_markdown(table)
    shown = "a\\|b &lt;i&gt;&amp;amp; my_net \\*x\\* \\`y\\` \\[z](u)\\\\"
    header, _, row = text.splitlines()[2:5]
    assert row.startswith(f"| {shown} ")
    assert row.replace("\\|", "").count("|") == header.count("|")
    assert "Data set: a_b\\|c." in text
    assert label in to_csv(table)


def test_keys_that_look_like_numbers_are_printed_as_they_are():
    (table,) = comparison([made(key="0012e45678901234"), made("focal", key="1234567890123456")])
    text = to_markdown(table)
    assert "| 0012e456 |" in text
    assert "| 12345678 |" in text


def test_frame_has_one_row_a_record_and_every_metric():
    table = frame([made(), made(seed=1, metrics=made_metrics(0.9)), made("ecl", ECL)])
    assert table["label"].tolist() == ["ce", "ce", "ecl"]
    assert table["test.accuracy"].tolist() == [0.8, 0.9, 0.8]
    assert {f"test.{name}" for name in METRICS} <= set(table.columns)
    assert table["test.macro_auc"].isna().all()
    assert table["val.accuracy"].dtype == np.float64
    assert table["ledger.num_parameters"].tolist() == [1234] * 3
    validated = {**made(), "metrics": {"test": made_metrics(0.8), "val": made_metrics(0.7)}}
    assert frame([validated])["val.accuracy"].tolist() == [0.7]


def evaluated():
    predictions = Predictions(
        ids=np.array(["a", "b", "c", "d", "e"]),
        targets=np.array([0, 0, 0, 1, 2]),
        logits=np.log([[16, 2, 1, 1], [4, 14, 1, 1], [14, 2, 2, 2], [8, 10, 1, 1], [8, 8, 2, 2]]),
        class_names=("NV", "MEL_x|y", "DF", "VASC"),
    )
    return json.loads(json.dumps(evaluate(predictions, (500, 101, 20, 100))))


def test_the_closing_table_letter_by_letter():
    assert per_class(made(metrics=evaluated())) == (
        "ce, seed 0: digits_lt, held_out, test part; rates in percent\n"
        "\n"
        "class      train    test    Pre     Sen     Spe     F1    AUC\n"
        "-------  -------  ------  -----  ------  ------  -----  -----\n"
        "NV           500       3  66.67   66.67   50.00  66.67  66.67\n"
        "MEL_x|y      101       1  50.00  100.00   75.00  66.67  75.00\n"
        "DF            20       1      -    0.00  100.00   0.00  87.50\n"
        "VASC         100       0      -       -  100.00      -      -\n"
        "\n"
        "accuracy            60.00\n"
        "macro sensitivity   55.56  over 3 of 4 classes\n"
        "macro precision     38.89  over 3 of 4 classes\n"
        "macro f1            44.44  over 3 of 4 classes\n"
        "macro auc           76.39  over 3 of 4 classes\n"
        "balanced accuracy   55.56  over 3 of 4 classes\n"
        "head sensitivity    83.33  over 2 of 2 classes with more than 100 training images\n"
        "medium sensitivity   0.00  over 1 of 2 classes with 20 to 100 training images\n"
        "tail sensitivity        -  no such class (fewer than 20 training images)\n"
        "tied images             1  the first class was taken\n"
    )


def test_an_evaluated_record_goes_through_all_tables():
    record = made(metrics=evaluated())
    (table,) = comparison([record], metrics=tuple(METRICS))
    assert all(
        cell.mean is None or math.isfinite(cell.mean) for cell in table.rows[0].cells.values()
    )
    assert "tail sensitivity" in to_markdown(table)
    assert frame([record])["test.mcc"].notna().all()
