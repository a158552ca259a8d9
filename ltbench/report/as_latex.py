r"""Sheets as LaTeX: environments to be put into a paper with \input, in booktabs' style."""

from __future__ import annotations

import itertools
import math
import re

from ltbench.report.as_markdown import PUBLISHED
from ltbench.report.sheet import Line, Sheet, one_line

_LONGEST_FLOAT = 40  # lines; a longer table must be able to break over pages
_MANY_COLUMNS = 9
# In points: a letter of small print, roughly, the gap of two columns, and a line of `article`.
_LETTER, _GAP, _LINE = 4.1, 6.0, 345.0
# The same of heights: a page, a row, a caption with what is around it, a line of notes.
_PAGE, _ROW, _CAPTION, _NOTE = 550.0, 12.0, 50.0, 9.5
_FIRST_BEYOND_LATIN = 0x180

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\textasciigrave{}",
    # After the end of a row, a star or a bracket would be read as an argument.
    "[": "{[}",
    "*": "{*}",
    # Two of these in a row would become another sign.
    "-": "{-}",
    ",": "{,}",
    "'": "{'}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{PLUS-MINUS SIGN}": r"\(\pm\)",
    "\N{MULTIPLICATION SIGN}": r"\(\times\)",
    "\N{MINUS SIGN}": r"\(-\)",
    "\N{DAGGER}": r"\(^{\dagger}\)",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{SOFT HYPHEN}": "",
}
_ESCAPES = str.maketrans(_SPECIAL)
_MEAN_AND_SPREAD = re.compile(r"(-?[0-9.]+) \N{PLUS-MINUS SIGN} ([0-9.]+)")


def to_latex(sheet: Sheet) -> str:
    """A `table`, or a `longtable` where it is too long for a page; the comment says what it needs.

    Notes that do not fit on the page of their `table` stand in the text after it, where they can
    break over pages.

    A table that is wider than the text is scaled to its width; a `longtable`, which cannot be, lies
    on its side. Letters beyond Latin are left as they are: pdfLaTeX has no glyphs for them,
    LuaLaTeX and XeLaTeX have those of the font.
    """
    long = len(sheet.lines) > _LONGEST_FLOAT
    rows = _long(sheet) if long else _float(sheet)
    return "\n".join([*_comment(sheet, long), *rows]) + "\n"


def escaped(text: str) -> str:
    """`text` so that LaTeX prints it as it is; line breaks are spaces."""
    plain = one_line(text).translate(_ESCAPES)
    # Braces keep signs apart; between two letters or numbers there is nothing to keep apart.
    return re.sub(r"(?<=[\w.)]){([-,'])}(?=[\w ])", r"\1", plain)


def beyond_latin(text: str) -> list[str]:
    """The letters of `text` that pdfLaTeX cannot print, each once."""
    left = (c for c in one_line(text) if ord(c) >= _FIRST_BEYOND_LATIN and c not in _SPECIAL)
    return list(dict.fromkeys(left))


def _comment(sheet: Sheet, long: bool) -> list[str]:
    packages = "booktabs,longtable" if long else "booktabs,graphicx"
    if long and _is_wide(sheet):
        packages += ",pdflscape"
    lines = [f"% Needs: \\usepackage[T1]{{fontenc}} \\usepackage{{{packages}}}"]
    if not long and len(sheet.columns) > _MANY_COLUMNS:
        lines.append("% Wide: table* spans two columns, sidewaystable (rotating) lies on its side.")
    letters = beyond_latin("".join(_texts(sheet)))
    if letters:
        shown = " ".join(f"U+{ord(letter):04X}" for letter in letters[:10])
        lines += [
            f"% Has letters beyond Latin ({shown}{' and more' if len(letters) > 10 else ''}):",
            "% compile with LuaLaTeX or XeLaTeX, with fontspec in place of fontenc, and in a font",
            "% that has these letters.",
        ]
    return lines


def _texts(sheet: Sheet) -> list[str]:
    headings = [f"{column.group}{column.heading}" for column in sheet.columns]
    cells = [entry.text for line in sheet.lines for entry in line.entries]
    return [sheet.caption, *sheet.footer, *headings, *cells]


def _float(sheet: Sheet) -> list[str]:
    end = r"\end{table}"
    return [
        r"\begin{table}[tbp]",
        r"\centering\setlength{\tabcolsep}{3pt}\setlength{\belowcaptionskip}{4pt}",
        *_caption(sheet),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{_alignment(sheet)}}}",
        r"\toprule",
        *_headings(sheet),
        r"\midrule",
        *_body(sheet),
        r"\bottomrule",
        r"\end{tabular}}",
        *([*_notes(sheet), end] if _fits(sheet) else [end, *_notes_after(sheet)]),
    ]


def _fits(sheet: Sheet) -> bool:
    """Whether a `table` with its notes is likely to be no higher than a page."""
    notes = sum(math.ceil(len(one_line(text)) * _LETTER / _LINE) for text in sheet.footer)
    return _CAPTION + _ROW * (len(sheet.lines) + 2) + _NOTE * notes < _PAGE


def _is_wide(sheet: Sheet) -> bool:
    """Whether a `longtable` is likely to be wider than the text."""
    columns = zip(*(line.entries for line in sheet.lines), strict=True)
    letters = [
        max(len(column.heading), *(len(one_line(entry.text)) for entry in entries))
        for column, entries in zip(sheet.columns, columns, strict=True)
    ]
    return sum(letters) * _LETTER + len(letters) * _GAP > _LINE


def _long(sheet: Sheet) -> list[str]:
    table = _long_table(sheet)
    if not _is_wide(sheet):
        return [r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}", *table, r"\endgroup"]
    begin = r"\begin{landscape}\scriptsize\setlength{\tabcolsep}{3pt}"
    return [begin, *table, r"\end{landscape}"]


def _long_table(sheet: Sheet) -> list[str]:
    return [
        rf"\begin{{longtable}}{{{_alignment(sheet)}}}",
        *[*_caption(sheet)[:-1], rf"{_caption(sheet)[-1]}\\"],
        *(r"\toprule", *_headings(sheet), r"\midrule", r"\endfirsthead"),
        *(r"\toprule", *_headings(sheet), r"\midrule", r"\endhead"),
        *(r"\bottomrule", r"\endfoot"),
        *_body(sheet),
        r"\end{longtable}",
        *_paragraphs(sheet),
    ]


def _caption(sheet: Sheet) -> list[str]:
    return [rf"\caption{{{escaped(sheet.caption)}}}", rf"\label{{tab:{sheet.name}}}"]


def _alignment(sheet: Sheet) -> str:
    return "".join("r" if column.numeric else "l" for column in sheet.columns)


def _headings(sheet: Sheet) -> list[str]:
    names = [escaped(column.heading) for column in sheet.columns]
    lines = [_row(names)]
    if any(column.group for column in sheet.columns):
        groups, rules, start = [], [], 1
        for group, found in itertools.groupby(sheet.columns, key=lambda column: column.group):
            width = len(list(found))
            if group:
                groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
                rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
            else:
                groups += [""] * width
            start += width
        lines = [_row(groups), " ".join(rules), *lines]
    return lines


def _body(sheet: Sheet) -> list[str]:
    rows: list[str] = []
    published = False
    for line in sheet.lines:
        if line.published and not published:
            published = True
            title = rf"\textit{{{escaped(PUBLISHED)}}}"
            rows += [*([r"\midrule"] if rows else []), _span(title, sheet)]
        elif line.begins_section and rows:
            rows.append(r"\midrule")
        rows.append(_row(_cells(line)))
    return rows


def _span(text: str, sheet: Sheet) -> str:
    return _row([rf"\multicolumn{{{len(sheet.columns)}}}{{l}}{{{text}}}"])


def _cells(line: Line) -> list[str]:
    cells = []
    for entry in line.entries:
        both = _MEAN_AND_SPREAD.fullmatch(entry.text)
        # The spread is set smaller: ten columns of both would not fit a page.
        text = rf"{both[1]}{{\scriptsize\,\(\pm\)\,{both[2]}}}" if both else escaped(entry.text)
        command = "textbf" if entry.bold else "textit" if line.published else ""
        cells.append(rf"\{command}{{{text}}}" if command and text else text)
    return cells


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _notes(sheet: Sheet) -> list[str]:
    return [
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\scriptsize\raggedright",
        *_paragraphs(sheet),
        r"\end{minipage}",
    ]


def _notes_after(sheet: Sheet) -> list[str]:
    return [r"\begingroup\scriptsize\raggedright", *_paragraphs(sheet), r"\endgroup"]


def _paragraphs(sheet: Sheet) -> list[str]:
    return [rf"{escaped(line)}\par" for line in sheet.footer]
