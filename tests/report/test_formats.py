"""Markdown, CSV, LaTeX and HTML: letter by letter, and names that look like markup."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import expected
from table_records import AWKWARD, ECL, made, made_metrics

from ltbench.report import as_latex, as_markdown
from ltbench.report.as_csv import read_csv
from ltbench.report.as_html import to_html
from ltbench.report.sheet import one_line, slug
from ltbench.report.tables import comparison, sheets, to_csv, to_latex, to_markdown, written
from ltbench.report.tables import to_html as table_as_html

TEXTS = expected.texts()


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_every_format_letter_by_letter(file):
    """`python tests/report/expected.py` writes the files again."""
    assert TEXTS[file] == file.read_text("utf-8")


def test_no_file_is_left_over():
    assert {file.name for file in expected.FOLDER.iterdir()} == {file.name for file in TEXTS}


class Cells(HTMLParser):
    """The texts of cells, of headings and of list items, as a browser has them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.open, self.tags, self.attributes = [], None, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag in ("td", "th", "li", "caption", "title"):
            self.open = [tag, ""]

    def handle_endtag(self, tag):
        if self.open and tag == self.open[0]:
            self.found.append(self.open[1])
            self.open = None

    def handle_data(self, data):
        if self.open:
            self.open[1] += data


NAMES = st.text(
    alphabet=st.one_of(
        st.sampled_from("a1 ,;<>&_|$%#{}[]()*~`^\\\"'\n\r\t-=!?@/.:†±"),
        st.characters(exclude_categories=()),
    ),
    min_size=1,
    max_size=30,
)
FEW = settings(max_examples=60, deadline=None)


def awkward_table(name):
    metrics = made_metrics(0.8, per_class=expected.per_class(class_names=["NV", name, "x"]))
    (table,) = comparison([made(name), made("focal", ECL, metrics=metrics)], metrics=["accuracy"])
    return table


@FEW
@given(name=NAMES)
def test_html_gives_every_name_back(name):
    cells = Cells(table_as_html(awkward_table(name)))
    assert one_line(name) in cells.found
    structure = Cells(table_as_html(awkward_table("plain")))
    assert cells.tags == structure.tags


@FEW
@given(name=NAMES)
def test_csv_gives_every_name_back(name):
    lines = read_csv(to_csv(awkward_table(name)))
    assert len(lines) == 2
    whole = name.encode("utf-8", "replace").decode()
    assert [line["label"] for line in lines] == [whole, "focal"]
    assert [float(line["mean"]) for line in lines] == [0.8, 0.8]


@FEW
@given(name=NAMES)
def test_markdown_keeps_its_columns_and_gives_every_name_back(name):
    lines = to_markdown(awkward_table(name)).splitlines()
    pipes = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines if line[:1] == "|"}
    assert len(pipes) == 1
    row = next(line for line in lines[4:])
    plain = re.sub(r"\\([\\|*`\[~$_])", r"\1", re.split(r"(?<!\\)(?:\\\\)*\|", row)[1].strip())
    for entity, mark in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        plain = plain.replace(entity, mark)
    if "\\" not in name:  # the split above takes backslashes before a bar with it
        assert plain == one_line(name)


@FEW
@given(name=NAMES)
def test_latex_leaves_no_special_sign_alone(name):
    text = as_latex.escaped(name)
    plain = re.sub(r"\\(text[a-z]+|ldots|symbol)(\{34\}|\{\})|\\\([^)]*\\\)|\\[&%$#_{}]", "", text)
    assert not set(plain) & set('\\&%$#_~^<>|"`')
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"--|,,|''", text)
    assert not text.startswith(("[", "*"))
    assert "\n" not in text


def test_backslash_braces_and_row_ends_in_latex():
    assert as_latex.escaped("a_b & 5 %") == r"a\_b \& 5 \%"
    assert as_latex.escaped("\\x{y}") == r"\textbackslash{}x\{y\}"
    assert as_latex.escaped("[1] *") == "{[}1] {*}"
    assert as_latex.escaped("a-b, c--d") == "a-b, c{-}{-}d"
    assert as_latex.escaped("Naïve") == "Naïve"


def test_an_underscore_within_a_word_stays_as_it_is_in_markdown():
    assert as_markdown.escaped("held_out _x_ a__b") == r"held_out \_x\_ a\_\_b"


def test_names_on_one_line():
    assert one_line(" a\r\n\tb\x00c\u2028d ") == "a b c d"
    assert one_line("a\ud800b") == "a\N{REPLACEMENT CHARACTER}b"
    assert slug("Cost", "a_b", "Δ") == "cost-a-b"
    assert slug("Δ") == "table"


def test_html_says_what_is_a_heading_of_what():
    cells = Cells(TEXTS[expected.FOLDER / "paper.html"])
    scopes = [facts.get("scope") for tag, facts in cells.attributes if tag == "th"]
    assert scopes.count("colgroup") == 2
    assert scopes.count("col") == 12
    assert scopes.count("row") == 5
    assert scopes.count("rowgroup") == 1
    assert cells.tags.count("caption") == 1
    assert ("html", {"lang": "en"}) in cells.attributes


def test_html_needs_neither_scripts_nor_the_network():
    for file, text in TEXTS.items():
        if file.suffix == ".html":
            assert not re.search(r"<(script|link|img|iframe)|\bsrc=|url\(|@import", text)


def test_a_page_of_no_sheets_is_a_page():
    assert Cells(to_html([])).tags.count("table") == 0


def test_csv_of_several_tables_has_one_line_of_headings():
    text = TEXTS[expected.FOLDER / "classes.csv"]
    assert text.count("dataset,protocol") == 1
    lines = read_csv(text)
    assert {line["class"] for line in lines} == {"", "NV", "M, E | L", AWKWARD}
    sensitivity = [
        line for line in lines if line["class"] == "NV" and line["metric"] == "sensitivity"
    ]
    assert [float(line["mean"]) for line in sensitivity] == pytest.approx([0.8, 0.8])
    assert {line["num_images"] for line in sensitivity} == {"60"}


def test_a_long_latex_table_breaks_over_pages():
    records = [made(f"row {i}", key=f"{i:016d}") for i in range(60)]
    text = to_latex(comparison(records)[0])
    assert r"\begin{longtable}" in text
    assert text.count(r"\endhead") == 1
    assert "booktabs,longtable" in text.splitlines()[0]


def many_classes():
    """Three rows of two seeds, twenty classes."""
    rates = dict.fromkeys(("precision", "sensitivity", "specificity", "f1", "auc"), [0.5] * 20)
    counts = {"support": [9] * 20, "train_count": [900] * 20}
    of_classes = {"class_names": [f"class {i}" for i in range(20)], **counts, **rates}
    metrics = made_metrics(0.5, per_class=of_classes)
    return [
        made(f"method {row}", key=f"{row}" * 16, seed=seed, metrics=metrics)
        for row in range(3)
        for seed in (0, 1)
    ]


def test_a_long_latex_table_that_is_wide_lies_on_its_side():
    wide = written(sheets(many_classes(), classes=True)[1:], "latex")
    assert "pdflscape" in wide.splitlines()[0]
    assert wide.count(r"\begin{landscape}") == wide.count(r"\end{landscape}") == 1
    narrow = comparison([made("ce", key=f"{i:016d}") for i in range(60)], metrics=["accuracy"])
    assert "landscape" not in to_latex(narrow[0])


def test_latex_says_which_engine_its_letters_need():
    def comment(label):
        text = to_latex(comparison([made(label)])[0])
        return [line for line in text.splitlines() if line.startswith("%")]

    assert len(comment("Naïve Müller")) == 1
    assert any("LuaLaTeX" in line for line in comment("Меланома"))
    assert any("U+041C" in line for line in comment("Меланома"))


LATIN = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage{lmodern}\usepackage{booktabs,graphicx,longtable,pdflscape}
\begin{document}\input{table.tex}\end{document}
"""
ANY_LETTERS = r"""\documentclass{article}
\usepackage{fontspec}\setmainfont{DejaVu Serif}\usepackage{booktabs,graphicx,longtable,pdflscape}
\begin{document}\input{table.tex}\end{document}
"""


def compiled(engine, wrapper, text, folder):
    """What the engine printed; fails where it fails."""
    if shutil.which(engine) is None:
        pytest.fail(f"{engine} is not installed: apt install texlive-latex-recommended")
    (folder / "table.tex").write_text(text, encoding="utf-8")
    (folder / "paper.tex").write_text(wrapper, encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return done.stdout


def latin(records):
    """The records without letters that pdfLaTeX does not have."""
    label = re.sub(r"[^\x00-\x7f]", "", AWKWARD) + " é ü ß ±"
    return [
        {**record, "label": label} if record["label"] == AWKWARD else record for record in records
    ]


@pytest.mark.services
@pytest.mark.parametrize("layout", ["plain", "paper", "tail", "clinical", "compute"])
def test_latex_compiles(layout, tmp_path):
    found = sheets(latin(expected.records()), layout, mixed=True)
    printed = compiled("pdflatex", LATIN, written(found, "latex"), tmp_path)
    assert "Overfull \\hbox" not in printed


def noted(lines):
    """A table of thirty rows, and notes of so many lines more."""
    records = [made(f"row {i}", key=f"{i:016d}") for i in range(30)]
    return comparison(records)[0].with_notes([f"Note {i}. {'words ' * 12}" for i in range(lines)])


def test_notes_that_fill_a_page_stand_after_the_latex_table():
    with_few, with_many = to_latex(noted(1)), to_latex(noted(40))
    assert with_few.index("Note 0.") < with_few.index(r"\end{table}")
    assert with_many.index(r"\end{table}") < with_many.index("Note 0.")


@pytest.mark.services
def test_a_latex_table_with_its_notes_is_no_higher_than_a_page(tmp_path):
    for lines in (1, 40):
        printed = compiled("pdflatex", LATIN, to_latex(noted(lines)), tmp_path)
        assert "Float too large" not in printed


@pytest.mark.services
def test_long_latex_compiles(tmp_path):
    records = [made(f"[row] *{i}*", key=f"{i:016d}") for i in range(60)]
    compiled("pdflatex", LATIN, to_latex(comparison(records)[0]), tmp_path)


@pytest.mark.services
def test_a_wide_long_table_fits_its_page(tmp_path):
    text = written(sheets(many_classes(), classes=True)[1:], "latex")
    compiled("pdflatex", LATIN, text, tmp_path)
    again = compiled("pdflatex", LATIN, text, tmp_path)  # columns have their widths by now
    assert "too wide" not in again


@pytest.mark.services
@pytest.mark.parametrize("name", ["paper", "classes"])
def test_latex_with_other_letters_compiles_with_lualatex(name, tmp_path):
    text = TEXTS[expected.FOLDER / f"{name}.tex"]
    compiled("lualatex", ANY_LETTERS, text.replace("皮", "Ж"), tmp_path)


@pytest.mark.services
@settings(max_examples=3, deadline=None)
@given(names=st.lists(NAMES, min_size=80, max_size=80))
def test_any_latin_name_compiles(names, tmp_path_factory):
    """Eighty at once, since an engine takes seconds to start."""
    plain = ["".join(c for c in name if ord(c) < 0x7F) for name in names]
    records = [made(f"x{name}", key=f"{i:016d}") for i, name in enumerate(plain)]
    table = comparison(records, metrics=["accuracy"])[0]
    compiled("pdflatex", LATIN, to_latex(table), tmp_path_factory.mktemp("tex"))
