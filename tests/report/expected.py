"""What each format of a few tables is, letter by letter, in the folder beside this file.

python tests/report/expected.py      writes the files again; look at what changed
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from table_records import AWKWARD, ECL, OTHER, made, made_ledger, made_metrics

from ltbench.report.published import Published, figures_of
from ltbench.report.tables import FORMATS, sheets, written

FOLDER = Path(__file__).parent / "expected"

FIGURES = """
paper: "Made, A. & B.: of 5 % | $x_1$"
source: https://example.org/a_b
tables:
  - table: Table 1
    protocol: paper
    evidence: paper
    verified: true
    unit: percent
    num_runs: 3
    columns:
      - {dataset: isic2018, metric: accuracy}
      - {dataset: isic2019, metric: accuracy}
    rows:
      - {row: CE, method: ce, values: 83.90 82.41}
      - {row: Ours, method: ecl, values: "87.20 -"}
  - table: Table 2
    role: ablation
    method: ecl
    protocol: paper
    evidence: third party
    verified: false
    unit: fraction
    columns: [{dataset: isic2019, metric: accuracy}]
    rows: [{row: no cycle, method: ecl, values: "0.850"}]
"""


def per_class(**rates):
    names = ["NV", "M, E | L", AWKWARD]
    values = {"precision": [0.9, 0.5, None], "sensitivity": [0.8, 0.6, 0.0], "f1": [0.85, 0.5, 0.0]}
    counts = {"support": [60, 24, 6], "train_count": [4023, 12, 667]}
    return {"class_names": names, **counts, **values, **rates}


def records(dataset="isic2018", **more):
    """Three seeds of CE, two of ECL, one of a method with an awkward label."""
    split = {"isic2018": "a", "isic2019": "b"}[dataset] * 64
    shared = {
        **{"dataset": dataset, "protocol": "group", "split_digest": split, "recipe": "ecl_paper"},
        "protocol_notes": {"split_by": "group", "groups": {"train": 900, "test": 51}},
        "leak": {"sentence": "0 of 90 test images share a lesion", "noun": "lesion"},
        **more,
    }

    def one(label, key, seed, accuracy):
        metrics = made_metrics(accuracy, num_images=90, per_class=per_class())
        key = key if dataset == "isic2018" else key[::-1]
        ledger = made_ledger(seed)
        return made(label, key, seed, metrics=metrics, **shared, **ledger)

    found = [one("ce", "1a2b3c4d5e6f7081", seed, 0.8 + 0.01 * seed) for seed in range(3)]
    found += [one("ecl@authors", ECL, seed, 0.83 + 0.02 * seed) for seed in range(2)]
    return found if dataset == "isic2019" else [*found, one(AWKWARD, OTHER, 0, 0.8)]


def with_bold_cells(sheet, row):
    """The sheet with the numbers of one row bold."""
    line = sheet.lines[row]
    entries = tuple(replace(one, bold="\N{PLUS-MINUS SIGN}" in one.text) for one in line.entries)
    lines = (*sheet.lines[:row], replace(line, entries=entries), *sheet.lines[row + 1 :])
    return replace(sheet, lines=lines)


def cases():
    """Name of the file, without its ending -> sheets."""
    both = [*records(), *records("isic2019")]
    published = Published(figures_of(FIGURES, "made"))
    return {
        "plain": sheets(records()),
        "paper": [with_bold_cells(*sheets(both, "paper", published=published), 1)],
        "classes": sheets(records("isic2019"), "tail", classes=True),
        "compute": sheets(records("isic2019"), "compute"),
    }


def texts():
    """File -> its text."""
    endings = {"md": "md", "csv": "csv", "latex": "tex", "html": "html"}
    return {
        FOLDER / f"{name}.{endings[form]}": written(found, form)
        for name, found in cases().items()
        for form in FORMATS
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, text in texts().items():
        file.write_text(text, encoding="utf-8")
