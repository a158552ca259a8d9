"""A comparison of two rows as Markdown, CSV or HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

from tabulate import tabulate

from ltbench.metrics import METRICS
from ltbench.stats.comparing import Comparison, Line
from ltbench.stats.means import Mean
from ltbench.stats.sentences import decimals, metric_words, rounded

Format = Literal["md", "csv", "html"]

_UNDEFINED: Final = "n/a"
_MINUS: Final = "\N{MINUS SIGN}"
_MARKDOWN = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\|_*`[~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # would end a row, or cannot be printed
_HEAD: Final = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
    "<style>body {{ font-family: sans-serif; }} table {{ border-collapse: collapse; }} "
    "th, td {{ padding: 0.2em 0.6em; text-align: right; }}</style>\n</head>\n<body>\n"
)


def render(found: Comparison, table_format: Format) -> str:
    """Tables and what must be known to read them; CSV has the numbers, unrounded."""
    if table_format == "csv":
        return _csv(found)
    parts = [
        (_title(found), None),
        (None, _table([line for line in found.lines if line.of_class is None], found)),
        (None, _table([line for line in found.lines if line.of_class is not None], found)),
    ]
    if table_format == "html":
        return _html(parts, _said(found))
    shown = [_escaped(text) if text else _markdown(table) for text, table in parts if text or table]
    said = "\n".join(f"- {_escaped(line)}" for line in _said(found))
    return "\n\n".join([*shown, said]) + "\n"


def _title(found: Comparison) -> str:
    groups = "" if found.group_noun == "image" else f" of {found.num_groups} {found.group_noun}s"
    return (
        f"{found.first} against {found.second} on {found.dataset}, {found.protocol}, test part: "
        f"{found.num_images} images{groups}"
    )


def _table(lines: Sequence[Line], found: Comparison) -> list[dict[str, str]]:
    """Cells as text; no class columns where no line is of a class."""
    rows = []
    for line in lines:
        paired = line.paired
        cells = {"metric": metric_words(line.metric)}
        if line.of_class is not None:
            cells = {"class": line.of_class, "images": str(line.num_images)}
            if found.group_noun != "image":
                cells[f"{found.group_noun}s"] = str(line.num_groups)
            cells["metric"] = metric_words(line.metric)
        cells |= {
            found.first: _mean_text(line.first, line),
            found.second: _mean_text(line.second, line),
            "difference": _number(paired.difference, line, sign=True),
            f"{100 * found.level:g} % interval (Holm)": _difference_interval(line),
            "p (Holm)": _p(paired.p_adjusted),
            "SE seeds": _number(paired.standard_error_seeds, line),
            "SE test images": _number(paired.standard_error_sampling, line),
            "smallest shown": _smallest(paired.detectable, line),
        }
        rows.append(cells)
    return rows


def _said(found: Comparison) -> list[str]:
    """Verdicts, what each number is, and notes."""
    verdicts = [line.sentences[0] for line in found.lines]
    smallest = [line.sentences[1] for line in found.lines if line.of_class is None]
    seeds = "; ".join(
        f"{name} {', '.join(map(str, of_row))}"
        for name, of_row in zip((found.first, found.second), found.seeds, strict=True)
    )
    words = dict.fromkeys(line.paired.estimator for line in found.lines)
    return [
        *verdicts,
        *smallest,
        "Differences are first minus second; rates in percent, their differences in points. Means "
        f"have {100 * found.level:g} % intervals of their own, not corrected. SE: standard error "
        "of the difference if other seeds, or other test images, had been drawn; what is in both "
        "counts once in the interval. Smallest shown: the difference found with 80 % power by one "
        "uncorrected comparison, half its interval plus 0.84 SE.",
        *(f"Estimator: {one}." for one in words),
        f"Seeds: {seeds}.{_unpaired(found)}",
        *found.notes,
    ]


def _unpaired(found: Comparison) -> str:
    """What happens to seeds that one row alone has."""
    mine, theirs = map(set, found.seeds)
    if mine == theirs:
        return ""
    if all(line.paired.seeds_paired for line in found.lines):
        return " Means are over all of a row's seeds, differences over those that both have."
    return " Fewer than two are in both: each row's seeds count as drawn by themselves."


def _csv(found: Comparison) -> str:
    out = io.StringIO()
    writer: Any = None
    for line in found.lines:
        facts = asdict(line)
        cells = {
            "dataset": found.dataset,
            "protocol": found.protocol,
            "first": found.first,
            "second": found.second,
            "first_key": found.keys[0],
            "second_key": found.keys[1],
            **{name: facts[name] for name in ("metric", "of_class", "num_images", "num_groups")},
            **{f"first_{name}": value for name, value in facts["first"].items()},
            **{f"second_{name}": value for name, value in facts["second"].items()},
            **{f"paired_{name}": value for name, value in line.paired.as_dict().items()},
            "verdict": line.sentences[0],
        }
        if writer is None:
            writer = csv.DictWriter(out, list(cells), lineterminator="\n")
            writer.writeheader()
        writer.writerow(cells)
    return out.getvalue()


def _html(parts: Sequence[tuple[str | None, Any]], said: Sequence[str]) -> str:
    shown = []
    for text, table in parts:
        if text:
            shown.append(f"<h2>{html.escape(text)}</h2>")
        elif table:
            shown.append(
                str(tabulate(table, headers="keys", tablefmt="html", disable_numparse=True))
            )
    items = "\n".join(f"<li>{html.escape(line)}</li>" for line in said)
    head = _HEAD.format(title=html.escape(next(text for text, _ in parts if text)))
    return head + "\n".join([*shown, f"<ul>\n{items}\n</ul>"]) + "\n</body>\n</html>\n"


def _markdown(table: Any) -> str:
    rows = [{_escaped(k): _escaped(v) for k, v in row.items()} for row in table]
    left = {"metric", "class"}
    alignment = ["left" if name in left else "right" for name in rows[0]]
    return str(
        tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=alignment)
    )


def _mean_text(mean: Mean, line: Line) -> str:
    if mean.value is None:
        return _UNDEFINED
    text = _number(mean.value, line)
    return text if mean.low is None else f"{text} ({_interval(mean.low, mean.high, line)})"


def _difference_interval(line: Line) -> str:
    """Rows that are equal on every image and seed do not show that 0 is certain."""
    paired = line.paired
    known = bool(paired.standard_error)
    return _interval(paired.low, paired.high, line) if known else _UNDEFINED


def _interval(low: float | None, high: float | None, line: Line) -> str:
    if low is None or high is None:
        return _UNDEFINED
    return f"{_number(low, line)} to {_number(high, line)}"


def _number(value: float | None, line: Line, *, sign: bool = False) -> str:
    if value is None:
        return _UNDEFINED
    places = decimals(line.paired)
    text = rounded(100 * value, places) if _is_rate(line) else rounded(value, 4)
    text = f"+{text}" if sign and float(text) > 0 else text
    return text.replace("-", _MINUS)


def _smallest(value: float | None, line: Line) -> str:
    too_large = value is not None and value >= 1 and _is_rate(line)
    return "none" if too_large else _number(value, line)


def _is_rate(line: Line) -> bool:
    return line.metric not in METRICS or METRICS[line.metric].percent


def _p(value: float | None) -> str:
    if value is None:
        return _UNDEFINED
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _escaped(text: str) -> str:
    return _BREAKS.sub(" ", text).translate(_MARKDOWN)
