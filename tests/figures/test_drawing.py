"""What holds for every figure: whole SVG, literal names, the same bytes, nobody's settings."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from all_figures import all_figures
from made_figures import NAMES, SVG, by_name, made_folder, texts

from ltbench.errors import DataMissingError, VerificationError
from ltbench.figures import canvas, names
from ltbench.figures.canvas import drawing_style
from ltbench.figures.of_rows import board_sketches, row_sketches
from ltbench.figures.of_run import RUN_FIGURES, run_figures, run_sketches
from ltbench.report.reading import read
from ltbench.results import RunFolder


@pytest.fixture(scope="module")
def figures(root):
    return all_figures(root)


def test_a_run_has_the_figures_that_are_declared(root):
    run = next(root.rglob("seed-0"))
    assert [figure.name for figure in run_figures(RunFolder(run))] == list(RUN_FIGURES)
    (only,) = run_figures(RunFolder(run), only=["roc"])
    assert only.name == "roc"


def test_each_is_a_document_that_stands_alone(figures):
    for figure in figures:
        element = ElementTree.fromstring(figure.svg)
        assert element.tag == f"{SVG}svg"
        assert element.get("role") == "img"
        assert element.get("aria-label") == figure.alt
        assert element.find(f"{SVG}title").text == figure.title
        assert "<!DOCTYPE" not in figure.svg
        assert "<style" not in figure.svg, "a style would be of the whole page around it"
        links = re.findall(r"(?:href|url\()=?[\"']?([^\"')]+)", figure.svg)
        assert all(link.startswith(("#", "data:image/png")) for link in links)
        assert "font-size" in figure.svg
        assert "Last Resort" not in figure.svg


def test_widths_are_those_of_a_paper(figures):
    for figure in figures:
        width = float(re.search(r'width="([\d.]+)pt"', figure.svg)[1]) / 72
        assert width <= 3.4 + 1e-6 or 3.4 < width <= 7.0 + 1e-6
        sizes = {float(size) for size in re.findall(r"font-size: ([\d.]+)px", figure.svg)}
        assert min(sizes) >= 5
        assert canvas.FONT_SIZE in sizes


def test_references_of_two_figures_do_not_meet(figures):
    seen = set()
    for figure in figures:
        found = set(re.findall(r'id="([^"]+)"', figure.svg))
        assert all(f"#{name}" in figure.svg for name in found), "an id that nothing refers to"
        assert not found & seen
        seen |= found


def test_captions_say_how_many_images_and_which_split(figures):
    for figure in figures:
        assert "split 111111111111" in figure.caption, figure.name
        if figure.name != "training":
            assert "160 images" in figure.caption
        assert "  " not in figure.caption
        assert figure.caption.endswith(".")
        assert figure.alt.endswith(".")
        assert "None" not in figure.caption + figure.alt
        assert "nan" not in figure.caption + figure.alt


def test_names_are_drawn_as_they_are(figures):
    for figure in figures:
        if figure.name in ("confusion", "roc", "precision_recall", "f1_by_class_size"):
            shown = "\n".join(texts(figure.svg))
            # The last has no test image: no curve, but a row of the matrix.
            expected = NAMES if figure.name == "confusion" else NAMES[:-1]
            missing = [name for name in expected if name not in shown]
            assert missing == [], figure.name


def test_the_same_bytes_again(root, figures):
    assert [figure.svg for figure in all_figures(root)] == [figure.svg for figure in figures]


PROGRAM = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from all_figures import all_figures
for figure in all_figures(Path(sys.argv[2])):
    print(hashlib.sha256(figure.svg.encode()).hexdigest())
assert "matplotlib.pyplot" not in sys.modules
"""
HOSTILE = """
text.usetex: True
svg.fonttype: path
font.size: 31
font.family: serif
axes.grid: True
axes.formatter.use_locale: True
figure.constrained_layout.use: True
savefig.bbox: tight
savefig.dpi: 17
lines.linewidth: 9
"""


def test_the_same_bytes_in_another_process_whatever_its_settings(root, figures, tmp_path):
    (tmp_path / "matplotlibrc").write_text(HOSTILE, encoding="utf-8")
    environment = os.environ | {
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "PYTHONHASHSEED": "123",
        "MPLBACKEND": "agg",
        "DISPLAY": "",
    }
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, here, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    expected = [hashlib.sha256(figure.svg.encode()).hexdigest() for figure in figures]
    assert done.stdout.split() == expected


def test_the_same_bytes_from_many_threads(root):
    sketches = list(run_sketches(RunFolder(next(root.rglob("seed-1")))))
    once = [sketch.drawn().svg for sketch in sketches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda sketch: sketch.drawn().svg, sketches * 2))
    assert found == once * 2


def test_the_users_settings_are_theirs_again(root):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 23.0}):
        before = dict(mpl.rcParams)
        next(run_figures(RunFolder(next(root.rglob("seed-0")))))
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("kind", "begins"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_pdf_and_png(root, kind, begins):
    sketch = by_name(run_sketches(RunFolder(next(root.rglob("seed-0")))))["confusion"]
    rendered = sketch.rendered(kind)
    assert rendered.data.startswith(begins)
    assert rendered == sketch.rendered(kind)
    assert set(rendered.missing) <= set("黑色素瘤ميلانوما"), "letters that our own font has"


def test_without_matplotlib_the_message_says_what_to_install(root, monkeypatch, bench, tmp_path):
    monkeypatch.setattr(canvas, "find_spec", lambda name: None)
    with pytest.raises(DataMissingError, match=r"pip install 'ltbench\[plots\]'"):
        next(run_figures(RunFolder(next(root.rglob("seed-0")))))
    answer = bench("figures", "--results", tmp_path / "nothing", "--out", tmp_path / "out")
    assert answer.code == 3
    assert "pip install 'ltbench[plots]'" in answer.err
    assert not (tmp_path / "out").exists()


def test_long_names_are_cut_and_stay_apart(run):
    long = [f"a name of a class that has no room whatever one does {end}" for end in "ab"]
    with drawing_style():
        short = names.shortened([*long, long[0], "short"], 0.8)
        assert all(canvas.text_width(name) < 1.1 for name in short)
    assert len(set(short)) == 4
    assert short[-1] == "short"
    made = run(names=(*long, "c" * 5000), shares=(3, 2, 1), counts=(9, 5, 2))
    assert len(list(run_figures(made))) == len(RUN_FIGURES)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines\tof it", "two lines of it"),
        ("", "(no name)"),
        ("bell\x07", "bell\N{REPLACEMENT CHARACTER}"),
        ("turned\u202e", "turned"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_no_document_may_hold_is_replaced(name, shown):
    assert names.literal(name) == shown


def test_a_name_of_control_characters_still_gives_a_document(tmp_path):
    folder = made_folder(tmp_path, names=("bell\x07", "x\u2028y"), shares=(2, 1), counts=(20, 10))
    for figure in run_figures(folder):
        ElementTree.fromstring(figure.svg)


def test_long_labels_of_rows_fit(tmp_path):
    label = (
        "ce method.some_setting=0.123456789 optimizer.weight_decay=0.000123456789 epochs=1234567"
    )
    for number in range(3):
        made_folder(tmp_path, f"{label}{number}", key=f"{number:016x}", method="ce", preset=None)
    records, _ = read([tmp_path], per_class=True)
    for sketch in board_sketches(records):
        with drawing_style():
            figure = sketch.draw()
            figure.canvas.draw()
            (legend,) = figure.legends
            width = legend.get_window_extent().x1 / figure.dpi
            assert width <= figure.get_size_inches()[0]
            assert len({text.get_text() for text in legend.get_texts()}) == 3


@pytest.mark.parametrize("change", [{"schema_version": 99}, {"metrics": {}}, {"label": 3}])
def test_records_that_cannot_be_read_are_named(run, change):
    folder = run()
    record = folder.record() | change
    (folder.path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(VerificationError, match=str(folder.path)):
        next(run_figures(folder))
    with pytest.raises(VerificationError, match=str(folder.path)):
        next(row_sketches([folder]))
